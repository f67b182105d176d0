// SPDX-License-Identifier: Apache-2.0

package host

import (
	"net/netip"
	"time"
)

// CanaryHit is a hit: a packet or connection that reached a canary.
type CanaryHit struct {
	Time time.Time
	// Proto is tcp or udp.
	Proto string
	// Local is the address that it arrived at. Remote is its source address,
	// which a sender of raw packets can forge.
	Local, Remote netip.AddrPort
	// Interface is the name of the interface that received it, as reported by
	// the kernel; "" if that is not known. Nobody can forge it. When the node
	// sends a packet to one of its own addresses, the kernel reports the
	// interface that has this address.
	Interface string
	// Nonce is the nonce that it contained, at most 64 characters of [0-9a-f];
	// "" if it contained anything else. A guest knows only the nonces of its own
	// proofs.
	Nonce string
}

// Canaries are listeners of the agent that nothing in a guest may reach. They
// listen on every address of the node, including loopback and the gateways of
// the bundles' networks, over TCP and UDP, IPv4 and IPv6.
type Canaries interface {
	// Ports returns the ports on which they listen. They are the same on every
	// address.
	Ports() (tcp, udp uint16)
	// Addresses returns the node's own addresses, without loopback and
	// link-local ones, in a fixed order.
	Addresses() ([]netip.Addr, error)
	// IsOwn reports whether a is one of the node's own addresses. A packet
	// with such a source address was sent by the node itself, because the
	// kernel drops packets from outside that have one.
	IsOwn(a netip.Addr) (bool, error)
}
