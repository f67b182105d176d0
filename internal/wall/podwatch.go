// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// WatchWalls implements host.Walls. It receives the notifications of the Pods' network
// namespaces through two sockets in the network namespace of this process, so that it
// keeps no Pod's namespace alive. That works for namespaces that have an ID here, which
// EnsureWall and InspectWalls give them.
func (p *PodWalls) WatchWalls(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	links, err := openListener(unix.NETLINK_ROUTE, podGroups)
	if err != nil {
		return fmt.Errorf("watch the links of Pods: %w", err)
	}
	defer links.close()
	filters, err := openListener(unix.NETLINK_NETFILTER, []eventGroup{{unix.NFNLGRP_NFTABLES, false}})
	if err != nil {
		return fmt.Errorf("watch the filters of Pods: %w", err)
	}
	defer filters.close()
	ended := make(chan error, 2)
	go func() { ended <- links.listen(func(n notification) bool { return p.concernsLink(n) }, changed) }()
	go func() { ended <- filters.listen(func(n notification) bool { return p.concernsFilter(n) }, changed) }()
	stop := func() {
		_ = links.socket.SetReadDeadline(time.Now())
		_ = filters.socket.SetReadDeadline(time.Now())
	}
	defer context.AfterFunc(ctx, stop)()
	err = <-ended
	outer := ctx.Err()
	cancel()
	err = cmp.Or(err, <-ended) // wait, so that no reader is left behind
	return cmp.Or(outer, fmt.Errorf("watch the walls in Pods: %w", err))
}

var podGroups = []eventGroup{{unix.RTNLGRP_LINK, false}, {unix.RTNLGRP_NSID, false}, {unix.RTNLGRP_IPV4_NETCONF, false}}

// notification is one message of the kernel.
type notification struct {
	// from is the ID of the namespace that it is from; -1 for the process's own.
	from int
	kind uint16
	body []byte
}

// concernsLink reports whether a notification is about the link or the bridge of a wall, or
// about forwarding, or says that a Pod's network namespace has ended.
func (p *PodWalls) concernsLink(n notification) bool {
	switch n.kind {
	case unix.RTM_DELNSID:
		return p.ids.has(nsidIn(n.body))
	case unix.RTM_NEWNETCONF:
		return p.ids.has(n.from)
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok := parseLink(n.body)
		name := string(l.name)
		return ok && p.ids.has(n.from) && (strings.HasPrefix(name, "bv-") || strings.HasPrefix(name, bridgePrefix))
	}
	return false
}

// concernsFilter reports whether a notification is about the table of a wall or of a Pod.
func (p *PodWalls) concernsFilter(n notification) bool {
	return p.ids.has(n.from) && concernsTable(n.kind, n.body, func(family nftables.TableFamily, name string) bool {
		return family == nftables.TableFamilyNetdev && isWallTable(name) || family == nftables.TableFamilyINet && name == podTableName
	})
}

// listen calls changed for every notification that concerns the caller, and whenever
// notifications were lost. It returns when the socket's deadline has passed.
func (l *listener) listen(concerns func(notification) bool, changed func()) error {
	for {
		n, from, err := l.receive()
		if errors.Is(err, unix.ENOBUFS) {
			changed() // notifications were lost: anything may have changed
			continue
		}
		if err != nil {
			return err
		}
		found := false
		err = eachMessage(l.buf[:n], func(h unix.NlMsghdr, body []byte) error {
			found = found || concerns(notification{from: from, kind: h.Type, body: body})
			return nil
		})
		if err != nil || found {
			changed()
		}
	}
}

// receive waits for the next notifications. It returns their size in the buffer, and the
// ID of the namespace that they are from.
func (l *listener) receive() (n, from int, err error) {
	conn, err := l.socket.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var oobn, flags int
	var got error
	err = conn.Read(func(fd uintptr) bool {
		n, oobn, flags, _, got = unix.Recvmsg(int(fd), l.buf, l.oob, unix.MSG_DONTWAIT)
		return !errors.Is(got, unix.EAGAIN) && !errors.Is(got, unix.EINTR)
	})
	if err = cmp.Or(err, got); err != nil {
		return 0, 0, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return 0, 0, unix.ENOBUFS
	}
	from, err = l.sender(l.oob[:oobn])
	return n, from, err
}
