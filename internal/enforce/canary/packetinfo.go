// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPacketInfo is the buffer size for control messages, in bytes. It is larger
// than the requested messages.
const maxPacketInfo = 256

// requestPacketInfo makes the kernel report at which address and on which
// interface it received each datagram, and each connection of a listener. An
// IPv6 socket reports IPv4 as well, with mapped addresses.
func requestPacketInfo(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		family, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			set = err
			return
		}
		level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
		if family == unix.AF_INET6 {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
		}
		set = unix.SetsockoptInt(int(fd), level, option, 1)
	})
	if err != nil {
		return err
	}
	return set
}

// receivedOn returns the index of the interface on which the connection's first
// packet was received; 0 if the kernel does not report it.
func receivedOn(conn syscall.Conn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	index := 0
	_ = raw.Control(func(fd uintptr) {
		for _, option := range [][2]int{{unix.IPPROTO_IPV6, unix.IPV6_2292PKTOPTIONS}, {unix.IPPROTO_IP, unix.IP_PKTOPTIONS}} {
			control := make([]byte, maxPacketInfo)
			n, err := getsockopt(int(fd), option[0], option[1], control)
			if err != nil {
				continue
			}
			if _, index = parsePacketInfo(control[:n]); index != 0 {
				return
			}
		}
	})
	return index
}

// parsePacketInfo returns the address at which something was received, and the
// index of the interface; the zero values if the kernel did not report them.
func parsePacketInfo(control []byte) (local netip.Addr, ifindex int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}, 0
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IPV6 && len(m.Data) >= unix.SizeofInet6Pktinfo &&
			(m.Header.Type == unix.IPV6_PKTINFO || m.Header.Type == unix.IPV6_2292PKTINFO):
			return netip.AddrFrom16([16]byte(m.Data[:16])), int(binary.NativeEndian.Uint32(m.Data[16:20]))
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			// The fields are the interface, the chosen source, and the destination.
			return netip.AddrFrom4([4]byte(m.Data[8:12])), int(binary.NativeEndian.Uint32(m.Data[:4]))
		}
	}
	return netip.Addr{}, 0
}

// getsockopt reads a socket option into value and returns the length in bytes.
func getsockopt(fd, level, option int, value []byte) (int, error) {
	length := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return 0, errno
	}
	return min(int(length), len(value)), nil
}

// ifName returns the name of the interface with this index, or "" if there is
// none. fd may be any socket.
func ifName(fd, index int) string {
	req, err := unix.NewIfreq("")
	if err != nil {
		return ""
	}
	req.SetUint32(uint32(index))
	if unix.IoctlIfreq(fd, unix.SIOCGIFNAME, req) != nil {
		return ""
	}
	return req.Name()
}
