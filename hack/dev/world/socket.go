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

var errNoIPv6 = errors.New("the kernel has no IPv6")

// socket is a UDP socket that answers from the address that the query was sent
// to. By itself, the kernel might choose another local address.
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
	var optErr error
	err = raw.Control(func(fd uintptr) {
		if network == "udp6" {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		} else {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		}
	})
	return &socket{conn: conn, port: uint16(number)}, errors.Join(err, optErr)
}

// serve answers datagrams until the socket fails. It returns each datagram's
// control message with the answer, because that message names the address to
// answer from.
func (s *socket) serve(answer func(e entry, datagram []byte) []byte) error {
	datagram, control := make([]byte, maxData), make([]byte, 256)
	for {
		n, oob, _, from, err := s.conn.ReadMsgUDPAddrPort(datagram, control)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		local := netip.AddrPortFrom(destination(control[:oob]), s.port)
		e := entry{Proto: "udp", Local: local.String(), Remote: from.String()}
		if response := answer(e, datagram[:n]); response != nil {
			// Ignore errors: the client may be gone.
			_, _, _ = s.conn.WriteMsgUDPAddrPort(response, control[:oob], from)
		}
	}
}

// destination returns the destination address in IP_PKTINFO or IPV6_PKTINFO, or
// the zero Addr if there is neither.
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
