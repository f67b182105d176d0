// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// icmp sends an echo request. It uses an unprivileged socket if the guest's kernel
// allows that, and otherwise a raw socket, which only root may open.
func (p prober) icmp(ctx context.Context, addr netip.Addr) answer {
	conn, err := echoSocket(syscall.SOCK_DGRAM, addr)
	raw := false
	if err != nil {
		conn, err = echoSocket(syscall.SOCK_RAW, addr)
		raw = true
	}
	switch {
	case errors.Is(err, errNoSocket):
		return answer{probe.NotTried, err.Error()}
	case err != nil:
		return failed(err)
	}
	defer conn.Close()
	return exchange(ctx, conn, [][]byte{echo(addr, p.nonce)}, func(data []byte) bool {
		if raw && addr.Is4() && len(data) > 0 { // the data starts with the IP header
			data = data[min(len(data), 4*int(data[0]&0x0f)):]
		}
		return isReply(addr, data, p.nonce)
	})
}

// isReply reports whether data is the reply to our echo request. It is false for
// the request itself, which a raw socket receives as well, and for other replies.
func isReply(addr netip.Addr, data []byte, nonce string) bool {
	reply := byte(echoReply4)
	if addr.Is6() {
		reply = echoReply6
	}
	return len(data) > 8 && data[0] == reply && bytes.Contains(data[8:], []byte(nonce))
}

// errNoSocket means that the guest may not send an echo request, or that its
// kernel does not have the protocol.
var errNoSocket = errors.New("no socket for ICMP")

// echoSocket opens a socket for ICMP to and from one address.
func echoSocket(kind int, addr netip.Addr) (net.Conn, error) {
	family, proto := syscall.AF_INET, syscall.IPPROTO_ICMP
	var to syscall.Sockaddr = &syscall.SockaddrInet4{Addr: as4(addr)}
	if addr.Is6() {
		family, proto = syscall.AF_INET6, syscall.IPPROTO_ICMPV6
		to = &syscall.SockaddrInet6{Addr: addr.As16()}
	}
	fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, proto)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSocket, err)
	}
	f := os.NewFile(uintptr(fd), "icmp")
	defer f.Close() // FileConn has a copy
	if err := syscall.Connect(fd, to); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

func as4(addr netip.Addr) [4]byte {
	if addr.Is4() {
		return addr.As4()
	}
	return [4]byte{}
}

// echo returns a request that carries the nonce. Over IPv6, the kernel computes
// the checksum.
func echo(addr netip.Addr, nonce string) []byte {
	kind := byte(echoRequest4)
	if addr.Is6() {
		kind = echoRequest6
	}
	out := append([]byte{kind, 0, 0, 0, 0xb0, 0x77, 0, 1}, nonce...)
	if addr.Is4() {
		sum := checksum(out)
		out[2], out[3] = byte(sum>>8), byte(sum)
	}
	return out
}

// checksum returns the RFC 1071 checksum of an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(data[i])<<8 | uint32(data[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
