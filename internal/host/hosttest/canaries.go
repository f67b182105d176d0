// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"net/netip"
	"slices"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// Canaries is a fake of host.Canaries, on two fixed ports of a node with one
// address until told otherwise. Nothing listens.
type Canaries struct {
	mu        sync.Mutex
	set       bool // addresses were
	tcp, udp  uint16
	addresses []netip.Addr
	err       error
}

var _ host.Canaries = (*Canaries)(nil)

// SetPorts changes where they are said to listen, as a restart does.
func (c *Canaries) SetPorts(tcp, udp uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tcp, c.udp = tcp, udp
}

// SetAddresses changes the node's addresses; without any it has none.
func (c *Canaries) SetAddresses(addresses ...netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set, c.addresses = true, slices.Clone(addresses)
}

// Break makes Addresses fail; nil mends it.
func (c *Canaries) Break(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Ports implements host.Canaries: 4711 and 4712 unless set.
func (c *Canaries) Ports() (tcp, udp uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tcp == 0 && c.udp == 0 {
		return 4711, 4712
	}
	return c.tcp, c.udp
}

// Addresses implements host.Canaries: 10.0.0.5 unless set.
func (c *Canaries) Addresses() ([]netip.Addr, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return nil, c.err
	case !c.set:
		return []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 5})}, nil
	}
	return slices.Clone(c.addresses), nil
}

// IsOwn implements host.Canaries: loopback and the Addresses.
func (c *Canaries) IsOwn(a netip.Addr) (bool, error) {
	own, err := c.Addresses()
	return a.IsLoopback() || slices.Contains(own, a.Unmap()), err
}
