// SPDX-License-Identifier: Apache-2.0

package subnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// maxBits is the longest prefix that has room for a gateway, a bundle, a machine,
// and a separate broadcast address.
const maxBits = 29

// reserved are networks that no candidate may overlap: those that are not
// unicast, and the link between smolvm and its guest, because packets to a
// bundle's address on that link would never leave the machine.
var reserved = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "means this host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "is loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "is link-local, where cloud metadata lives"},
	{netip.MustParsePrefix("224.0.0.0/3"), "is multicast or reserved"},
	{netip.MustParsePrefix("100.96.0.0/30"), "is smolvm's own network inside each guest"},
}

// Pool is a validated set of candidates. The zero value is not usable.
type Pool struct {
	pool     netip.Prefix
	bits     int
	blocks   uint64 // number of networks of length bits in pool, including excluded ones
	excluded spans  // sorted, disjoint
}

// Default returns the pool of the /24 networks in 192.168.0.0/16 without .17
// (which once clashed with docker) and without .255: 254 candidates.
func Default() *Pool {
	p, err := Parse("192.168.0.0/16", 24, []string{"192.168.17.0/24", "192.168.255.0/24"})
	if err != nil {
		panic(err)
	}
	return p
}

// Parse is like New, but takes text, as given in flags. Errors name the invalid
// part.
func Parse(pool string, bits int, exclude []string) (*Pool, error) {
	p, err := netip.ParsePrefix(pool)
	if err != nil {
		return nil, fmt.Errorf("subnet pool %q: want a network like 192.168.0.0/16", pool)
	}
	ex := make([]netip.Prefix, 0, len(exclude))
	for _, e := range exclude {
		x, err := netip.ParsePrefix(e)
		if err != nil {
			return nil, fmt.Errorf("subnet exclusion %q: want a network like 192.168.17.0/24", e)
		}
		ex = append(ex, x)
	}
	return New(p, bits, ex)
}

// New returns the pool of all networks of length bits in pool that overlap none
// of exclude. Exclusions outside the pool are allowed and have no effect. A pool
// without candidates is an error.
func New(pool netip.Prefix, bits int, exclude []netip.Prefix) (*Pool, error) {
	if err := checkPrefix(pool); err != nil {
		return nil, fmt.Errorf("subnet pool %s: %w", pool, err)
	}
	if bits < pool.Bits() || bits > maxBits {
		return nil, fmt.Errorf("subnet prefix length %d: want %d (the pool's own, %s) to %d", bits, pool.Bits(), pool, maxBits)
	}
	p := &Pool{pool: pool, bits: bits, blocks: 1 << (bits - pool.Bits())}
	for _, x := range exclude {
		if err := checkPrefix(x); err != nil {
			return nil, fmt.Errorf("subnet exclusion %s: %w", x, err)
		}
		if s, ok := p.span(x); ok {
			p.excluded = append(p.excluded, s)
		}
	}
	p.excluded = p.excluded.merged()
	if p.excluded.size() == p.blocks {
		return nil, fmt.Errorf("subnet pool %s: nothing is left after the exclusions", pool)
	}
	for _, r := range reserved {
		s, ok := p.span(r.prefix)
		if !ok {
			continue
		}
		if block, ok := p.excluded.nextFree(s.lo, s.hi+1); ok {
			return nil, fmt.Errorf("subnet pool %s: its network %s overlaps %s, which %s; choose another pool or exclude that network",
				pool, p.prefix(block), r.prefix, r.why)
		}
	}
	return p, nil
}

// checkPrefix returns an error unless p is an IPv4 network without host bits.
func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return errors.New("not a network")
	case !p.Addr().Is4():
		return errors.New("not IPv4")
	case p.Masked() != p:
		return fmt.Errorf("has host bits set, the network is %s", p.Masked())
	}
	return nil
}

// prefix returns the network with this number.
func (p *Pool) prefix(block uint64) netip.Prefix {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(p.base()+block<<(32-p.bits)))
	return netip.PrefixFrom(netip.AddrFrom4(b), p.bits)
}

// span returns the run of networks that o overlaps; false if there are none.
func (p *Pool) span(o netip.Prefix) (span, bool) {
	addr, bits := o.Addr(), o.Bits()
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	o = netip.PrefixFrom(addr, bits).Masked()
	if !o.Addr().Is4() || !o.Overlaps(p.pool) {
		return span{}, false
	}
	if o.Bits() <= p.pool.Bits() {
		return span{0, p.blocks - 1}, true
	}
	first := number(o.Addr())
	last := first | (1<<(32-o.Bits()) - 1)
	shift := 32 - p.bits
	return span{(first - p.base()) >> shift, (last - p.base()) >> shift}, true
}

// base returns the pool's first address as a number.
func (p *Pool) base() uint64 { return number(p.pool.Addr()) }

func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}
