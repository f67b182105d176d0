// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/probe"
)

// askForLocal makes the kernel say with each datagram to which of the node's
// addresses it came. A socket for IPv6 says so of IPv4 as well, mapped.
func askForLocal(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	if !isIPv6(conn) {
		level, option = unix.IPPROTO_IP, unix.IP_PKTINFO
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, 1) }); err != nil {
		return err
	}
	return set
}

func isIPv6(conn *net.UDPConn) bool { return conn.LocalAddr().(*net.UDPAddr).IP.To4() == nil }

func (c *Canaries) serveUDP(ctx context.Context) error {
	data, control := make([]byte, maxRead), make([]byte, 128)
	_, port := c.Ports()
	for {
		n, m, _, remote, err := c.udp.ReadMsgUDPAddrPort(data, control)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && pause(ctx, err):
			continue
		case err != nil:
			return fmt.Errorf("canary over UDP: %w", err)
		}
		local := parseLocal(control[:m])
		nonce := probe.ParseNonce(data[:n])
		c.report(probe.ProtoUDP, netip.AddrPortFrom(local, port), remote, nonce)
		if nonce != "" {
			// From the address that was asked, or a prober takes it for nothing.
			// A greeting that cannot be sent is the prober's loss: the touch stands.
			_, _, _ = c.udp.WriteMsgUDPAddrPort([]byte(probe.Greeting(nonce)), fromLocal(local, isIPv6(c.udp)), remote)
		}
	}
}

// parseLocal is the address that a datagram came to; not valid if the kernel
// did not say.
func parseLocal(control []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12])) // behind interface and chosen source
		}
	}
	return netip.Addr{}
}

// fromLocal is the control message that makes local the source of an answer;
// nil leaves the choice to the kernel.
func fromLocal(local netip.Addr, ipv6 bool) []byte {
	switch {
	case !local.IsValid() || local.IsMulticast():
		return nil
	case ipv6:
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16()})
	case local.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
	}
	return nil
}
