// SPDX-License-Identifier: Apache-2.0

// Package tcpstate tells whether the other side of a TCP connection is still there,
// without reading from the connection. A program that has stopped reading, because it
// cannot pass on what it has read, would otherwise not notice the end.
//
// It does not find a host that has vanished: TCP's keepalive does.
package tcpstate

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// established is the kernel's TCP_ESTABLISHED.
const established = 1

// Open reports whether neither side of the connection has ended it. It returns true for
// a connection that it cannot look into.
func Open(conn net.Conn) bool {
	if outer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = outer.NetConn() // under TLS
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	open := true
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		open = err != nil || info.State == established
	})
	return err == nil && open // err: the connection is closed
}

// Watch calls gone once the connection is no longer open. It looks at every interval
// until ctx ends, and then returns.
func Watch(ctx context.Context, conn net.Conn, interval time.Duration, gone func()) {
	check := time.NewTicker(interval)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			if !Open(conn) {
				gone()
				return
			}
		}
	}
}
