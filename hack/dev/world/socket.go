// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

var errNoIPv6 = errors.New("no IPv6 here")

// socket is a UDP socket that answers from the address that was asked, which
// the kernel would not choose by itself where there are several.
type socket struct {
	conn *net.UDPConn
	port uint16
}

// openSocket listens on all addresses of network, udp4 or udp6.
func openSocket(network, port string) (*socket, error) {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP(network, &net.UDPAddr{Port: int(number)})
	if err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, errNoIPv6
		}
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		if network == "udp6" {
			refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		} else {
			refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	return &socket{conn: conn, port: uint16(number)}, errors.Join(err, refused)
}

// serve answers datagrams until the socket fails. The control message that
// came with one goes back with its answer: it names the address that was asked.
func (s *socket) serve(answer func(e entry, datagram []byte) []byte) error {
	datagram, control := make([]byte, most), make([]byte, 256)
	for {
		n, oob, _, from, err := s.conn.ReadMsgUDPAddrPort(datagram, control)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		asked := netip.AddrPortFrom(destination(control[:oob]), s.port)
		e := entry{Proto: "udp", Local: asked.String(), Remote: from.String()}
		if back := answer(e, datagram[:n]); back != nil {
			// Who asked may be gone.
			_, _, _ = s.conn.WriteMsgUDPAddrPort(back, control[:oob], from)
		}
	}
}

// destination reads IP_PKTINFO or IPV6_PKTINFO.
func destination(control []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12]))
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}
