// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"errors"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// events receives the kernel's notifications about links, addresses and routes, of
// the node's network namespace and of all those that have an ID in it. A wall's
// namespace has one because of its link. Nothing waits for notifications: they
// queue in the socket, and each check of the walls reads them first.
//
// There are changes without a notification, which must be read each time: an XDP
// program that is attached with a BPF link, and the alias of a link that is down,
// such as a namespace's loopback.
type events struct {
	*listener
	self int // the node's ID for its own namespace, -1 if it has none
}

// listener is a socket that receives notifications of the network namespace of this
// process, and of all those that have an ID in it.
type listener struct {
	socket *os.File
	buf    []byte
	oob    []byte
}

// changes are what notifications said has changed.
type changes struct {
	// all means that notifications were lost, so anything may have changed.
	all bool
	// links means that a link of the node was made, changed or deleted.
	links bool
	// ids means that a namespace got or lost an ID.
	ids bool
	// insides are the IDs of namespaces in which something changed, or which were
	// deleted.
	insides map[int]bool
}

const (
	// eventRoom is the size of the socket's buffer in bytes: what may queue up
	// between two checks without a loss.
	eventRoom = 4 << 20
	// maxEvents bounds how many notifications one check reads.
	maxEvents = 1 << 16
)

// eventGroup is a multicast group of notifications.
type eventGroup struct {
	group    int
	optional bool // the kernel may lack it
}

// eventGroups are the multicast groups for everything that a wall's facts are read
// from. A kernel that lacks an optional group also lacks what the group is about.
var eventGroups = []eventGroup{
	{unix.RTNLGRP_LINK, false}, {unix.RTNLGRP_NSID, false},
	{unix.RTNLGRP_IPV4_IFADDR, false}, {unix.RTNLGRP_IPV4_ROUTE, false}, {unix.RTNLGRP_IPV4_MROUTE, false},
	{unix.RTNLGRP_IPV6_IFADDR, false}, {unix.RTNLGRP_IPV6_ROUTE, false}, {unix.RTNLGRP_IPV6_MROUTE, false},
	{unix.RTNLGRP_MPLS_ROUTE, true}, {unix.RTNLGRP_PHONET_IFADDR, true}, {unix.RTNLGRP_PHONET_ROUTE, true}, {unix.RTNLGRP_MCTP_IFADDR, true},
}

// openEvents subscribes. What happens from then on is reported by read. It fails
// where this process may not see what happens in other namespaces.
func openEvents() (*events, error) {
	l, err := openListener(unix.NETLINK_ROUTE, eventGroups)
	if err != nil {
		return nil, err
	}
	e := &events{listener: l}
	if e.self, err = netlink.GetNetNsIdByPid(os.Getpid()); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func openListener(protocol int, groups []eventGroup) (*listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventRoom); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventRoom) // as much as is allowed
	}
	// Bind gives the socket an address. Without one its address is 0, as the
	// kernel's own is, and the kernel does not send to its own address.
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1)
	}
	for _, g := range groups {
		if err != nil {
			break
		}
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g.group)
		if g.optional && errors.Is(err, unix.EINVAL) {
			err = nil
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &listener{socket: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, linkRoom), oob: make([]byte, 256)}, nil
}

func (l *listener) close() { _ = l.socket.Close() }

// read returns what has changed since the last call. It does not wait. After an
// error, notifications may be missing, and e must be closed.
func (e *events) read() (changes, error) {
	c := changes{insides: map[int]bool{}}
	for range maxEvents {
		n, oobn, flags, _, err := unix.Recvmsg(int(e.socket.Fd()), e.buf, e.oob, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return c, e.checkSelf(&c)
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			// The kernel reports a loss only once until the queue is empty, so the
			// caller must not read anything before that.
			c.all = true
			continue
		case err != nil:
			return c, os.NewSyscallError("recvmsg", err)
		}
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			c.all = true
			continue
		}
		from, err := e.sender(e.oob[:oobn])
		if err != nil {
			return c, err
		}
		err = eachMessage(e.buf[:n], func(h unix.NlMsghdr, body []byte) error {
			switch {
			case from >= 0 && from != e.self:
				c.insides[from] = true
			case h.Type == unix.RTM_NEWLINK || h.Type == unix.RTM_DELLINK:
				c.links = true
			case h.Type == unix.RTM_NEWNSID || h.Type == unix.RTM_DELNSID:
				c.ids = true
				c.insides[nsidIn(body)] = true
			}
			return nil
		})
		if err != nil {
			return c, err
		}
	}
	return c, errors.New("notifications arrive faster than they can be read")
}

// sender returns the ID of the namespace that a notification is from; -1 if it is from
// the process's own and that has no ID.
func (l *listener) sender(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, os.NewSyscallError("control message", err)
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID {
			return nativeInt(m.Data), nil
		}
	}
	return -1, nil
}

// checkSelf finds out whether the node's own namespace got an ID. If it did, its
// notifications may have been mistaken for another namespace's.
func (e *events) checkSelf(c *changes) error {
	if !c.ids {
		return nil
	}
	self, err := netlink.GetNetNsIdByPid(os.Getpid())
	if err == nil && self != e.self {
		e.self, c.all = self, true
	}
	return err
}

// nsidIn returns the ID in a message about an ID; -1 if there is none.
func nsidIn(body []byte) int {
	const header = 4 // struct rtgenmsg, aligned
	id := -1
	if len(body) > header {
		attributes(body[header:], func(kind uint16, b []byte) {
			if kind == unix.NETNSA_NSID && len(b) >= 4 {
				id = int(int32(binary.NativeEndian.Uint32(b)))
			}
		})
	}
	return id
}
