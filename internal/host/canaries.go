// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net/netip"
	"time"
)

// Touch is a packet or connection that reached a canary.
type Touch struct {
	Time time.Time
	// Proto is tcp or udp.
	Proto string
	// Local is the address that it arrived at, Remote the source address that
	// it carries, which a sender of raw packets can forge.
	Local, Remote netip.AddrPort
	// Interface is the name of the interface that it was received on, as the
	// kernel says; "" if that is not known. Nobody can forge it. Of what the
	// node sends to itself the kernel names the interface whose address that
	// is.
	Interface string
	// Nonce is what it brought along, at most 64 characters of [0-9a-f]; ""
	// for anything else. A guest knows only the nonces of its own proofs.
	Nonce string
}

// Canaries are listeners of the agent's that nothing in a guest may reach: on
// every address of the node, loopback and the gateways of the bundles'
// networks among them, over TCP and UDP, IPv4 and IPv6.
type Canaries interface {
	// Ports are where they listen, the same on every address.
	Ports() (tcp, udp uint16)
	// Addresses are the node's own, without loopback and link-local ones, in a
	// fixed order.
	Addresses() ([]netip.Addr, error)
	// IsOwn reports whether a is one of the node's own addresses. A packet
	// with such a source address was sent by the node itself, because the
	// kernel drops packets from outside that claim one.
	IsOwn(a netip.Addr) (bool, error)
}
