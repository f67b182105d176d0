// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

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
		local, ifindex := parsePacketInfo(control[:m])
		nonce := probe.ParseNonce(data[:n])
		c.report(arrival{probe.ProtoUDP, netip.AddrPortFrom(local, port), remote, ifindex}, nonce)
		if nonce != "" {
			// The answer must come from the address that was hit, or the prober
			// ignores it. If it cannot be sent, the hit counts all the same.
			_, _, _ = c.udp.WriteMsgUDPAddrPort([]byte(probe.Greeting(nonce)), fromLocal(local, isIPv6(c.udp)), remote)
		}
	}
}

// fromLocal returns the control message that makes local the source address of
// an answer; nil leaves the choice to the kernel.
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
