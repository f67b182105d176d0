// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"net/netip"
	"slices"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// Canaries is a fake of host.Canaries. By default it has two fixed ports on a
// node with one address. Nothing listens.
type Canaries struct {
	mu        sync.Mutex
	set       bool // SetAddresses was called
	tcp, udp  uint16
	addresses []netip.Addr
	err       error
}

var _ host.Canaries = (*Canaries)(nil)

// SetPorts changes the ports, as a restart of the agent does.
func (c *Canaries) SetPorts(tcp, udp uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tcp, c.udp = tcp, udp
}

// SetAddresses changes the node's addresses. Without arguments, the node has
// none.
func (c *Canaries) SetAddresses(addresses ...netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set, c.addresses = true, slices.Clone(addresses)
}

// Break makes Addresses fail with err. A nil err makes it work again.
func (c *Canaries) Break(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Ports implements host.Canaries. It returns 4711 and 4712 unless SetPorts was
// called.
func (c *Canaries) Ports() (tcp, udp uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tcp == 0 && c.udp == 0 {
		return 4711, 4712
	}
	return c.tcp, c.udp
}

// Addresses implements host.Canaries. It returns 10.0.0.5 unless SetAddresses was
// called.
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

// IsOwn implements host.Canaries. Loopback addresses and Addresses are the node's
// own.
func (c *Canaries) IsOwn(a netip.Addr) (bool, error) {
	own, err := c.Addresses()
	return a.IsLoopback() || slices.Contains(own, a.Unmap()), err
}
