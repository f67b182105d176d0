// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// linkMessage holds the parts of an RTM_NEWLINK message that matter here. Its
// slices point into the message.
type linkMessage struct {
	name, kind, alias, mac []byte
	index, parent, master  int
	mtu, peersNS           int
	up, xdp                bool
}

// plainDevice is the kind of a link for which the kernel reports none.
var plainDevice = []byte("device")

func parseLink(body []byte) (m linkMessage, ok bool) {
	if len(body) < unix.SizeofIfInfomsg {
		return m, false
	}
	m.index = int(int32(binary.NativeEndian.Uint32(body[4:])))
	m.up = binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
	m.peersNS, m.kind = -1, plainDevice
	attributes(body[unix.SizeofIfInfomsg:], func(kind uint16, b []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			m.name = bytes.TrimRight(b, "\x00")
		case unix.IFLA_IFALIAS:
			m.alias = bytes.TrimRight(b, "\x00")
		case unix.IFLA_ADDRESS:
			if bytes.Trim(b, "\x00") != nil { // the library ignores an address of zeros, too
				m.mac = b
			}
		case unix.IFLA_LINK:
			m.parent = nativeInt(b)
		case unix.IFLA_MASTER:
			m.master = nativeInt(b)
		case unix.IFLA_MTU:
			m.mtu = nativeInt(b)
		case unix.IFLA_LINK_NETNSID:
			m.peersNS = nativeInt(b)
		case unix.IFLA_LINKINFO:
			attributes(b, func(kind uint16, b []byte) {
				if kind == unix.IFLA_INFO_KIND {
					m.kind = bytes.TrimRight(b, "\x00")
				}
			})
		case unix.IFLA_XDP:
			attributes(b, func(kind uint16, b []byte) {
				if kind == unix.IFLA_XDP_ATTACHED {
					m.xdp = len(b) == 0 || b[0] != 0
				}
			})
		}
	})
	return m, true
}

func nativeInt(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(b)))
}

func (m linkMessage) attrs() attrs {
	return attrs{
		name: string(m.name), kind: string(m.kind), alias: string(m.alias), index: m.index, parent: m.parent, master: m.master,
		mtu: m.mtu, peersNS: m.peersNS, up: m.up, xdp: m.xdp, mac: net.HardwareAddr(m.mac).String(),
	}
}

// keptLink is a link as it was listed last.
type keptLink struct {
	attrs
	mac    []byte
	listed uint64 // the number of the list
}

// is reports whether a message describes the same link, with nothing changed. It
// allocates nothing.
func (k *keptLink) is(m linkMessage) bool {
	return string(m.name) == k.name && string(m.kind) == k.kind && string(m.alias) == k.alias && bytes.Equal(m.mac, k.mac) &&
		m.index == k.index && m.parent == k.parent && m.master == k.master && m.mtu == k.mtu && m.peersNS == k.peersNS &&
		m.up == k.up && m.xdp == k.xdp
}

// linkTable lists the node's links. It keeps the attributes of a link while they
// stay the same, so that the same pointer means that nothing changed.
type linkTable struct {
	byIndex map[int]*keptLink
	byName  map[string]*attrs
	lists   uint64
}

// list returns all links of the node by name. The caller must not change them.
func (t *linkTable) list(r *linkSocket) (map[string]*attrs, error) {
	request := linkRequest(0, -1)
	var err error
	for range dumpTries {
		if err = t.listOnce(r, request); !errors.Is(err, errInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	return t.byName, nil
}

func (t *linkTable) listOnce(r *linkSocket, request []byte) error {
	if t.byIndex == nil {
		t.byIndex = map[int]*keptLink{}
	}
	t.lists++
	changed, n := false, 0
	err := r.links(unix.NLM_F_DUMP, request, func(body []byte) {
		m, ok := parseLink(body)
		if !ok {
			return
		}
		k := t.byIndex[m.index]
		if k == nil || k.listed != t.lists {
			n++
		}
		if k == nil || !k.is(m) {
			k = &keptLink{attrs: m.attrs(), mac: slices.Clone(m.mac)}
			t.byIndex[m.index] = k
			changed = true
		}
		k.listed = t.lists
	})
	if err != nil {
		t.byName = nil // it no longer matches byIndex
		return err
	}
	if !changed && n == len(t.byIndex) && t.byName != nil {
		return nil
	}
	t.byName = make(map[string]*attrs, n)
	for index, k := range t.byIndex {
		if k.listed != t.lists {
			delete(t.byIndex, index)
			continue
		}
		t.byName[k.name] = &k.attrs
	}
	return nil
}

// linksByName returns all links in the calling thread's network namespace.
func linksByName() (map[string]*attrs, error) {
	r, err := openLinkSocket(make([]byte, linkRoom))
	if err != nil {
		return nil, fmt.Errorf("list the node's links: %w", err)
	}
	defer r.close()
	return new(linkTable).list(r)
}
