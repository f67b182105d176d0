// SPDX-License-Identifier: Apache-2.0

// Package subnet chooses the network of a Bottle from its slug: the same slug
// gets the same network on every node where that network is free. The package is
// pure: it reads neither the host's routes nor docker's networks, and remembers
// nothing. The caller decides what counts as occupied, passes that in, and
// records the choice. Like the wall and the bundle, it supports only IPv4.
package subnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"net/netip"
	"slices"
)

// ErrExhausted means that every candidate of the pool is taken on this node. It
// no longer applies once one of them is released.
var ErrExhausted = errors.New("no subnet is free")

// Triple is a Bottle's subnet and the addresses in it that have a fixed meaning.
type Triple struct {
	Subnet    netip.Prefix
	Gateway   netip.Addr // .1, the bridge
	BundleIP  netip.Addr // .2, the only address that the guest may reach
	MachineIP netip.Addr // .3, the machine's network namespace
}

// TripleOf returns the addresses of a subnet that was chosen before. It returns
// an error if no pool could have contained the subnet.
func TripleOf(subnet netip.Prefix) (Triple, error) {
	if err := checkPrefix(subnet); err != nil {
		return Triple{}, fmt.Errorf("subnet %s: %w", subnet, err)
	}
	if subnet.Bits() > maxBits {
		return Triple{}, fmt.Errorf("subnet %s: too small, a Bottle needs a /%d or larger", subnet, maxBits)
	}
	for _, r := range reserved {
		if r.prefix.Overlaps(subnet) {
			return Triple{}, fmt.Errorf("subnet %s: overlaps %s, which %s", subnet, r.prefix, r.why)
		}
	}
	gateway := subnet.Addr().Next()
	return Triple{
		Subnet:    subnet,
		Gateway:   gateway,
		BundleIP:  gateway.Next(),
		MachineIP: gateway.Next().Next(),
	}, nil
}

// Len returns the number of candidates, which is at least 1. It is the modulus
// of FirstChoice.
func (p *Pool) Len() int { return int(p.blocks - p.excluded.size()) }

// Prefix returns the whole pool, including what is excluded.
func (p *Pool) Prefix() netip.Prefix { return p.pool }

// Candidates yields every candidate in order of address. It builds no list,
// because a pool may have half a billion candidates.
func (p *Pool) Candidates() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for block, ok := p.excluded.nextFree(0, p.blocks); ok; block, ok = p.excluded.nextFree(block+1, p.blocks) {
			if !yield(p.prefix(block)) {
				return
			}
		}
	}
}

// FirstChoice returns candidate number sha256(slug) mod Len. The digest is read
// as one big-endian integer.
func (p *Pool) FirstChoice(slug string) netip.Prefix {
	return p.prefix(p.firstBlock(slug))
}

// Pick returns the slug's first choice, or the next candidate after it, wrapping
// around, that overlaps nothing in occupied and reserved. If there is none, it
// returns ErrExhausted, and says how many candidates each reserved network
// excludes. All prefixes are taken literally: a default route (0.0.0.0/0)
// occupies everything, so the caller must leave it out. IPv6 prefixes occupy
// nothing, and host bits are ignored. An invalid prefix is an error, because it
// is unknown what it occupies.
func (p *Pool) Pick(slug string, occupied []netip.Prefix, reserved []Reserved) (Triple, error) {
	busy := slices.Clone(p.excluded)
	for i, o := range occupied {
		if !o.IsValid() {
			return Triple{}, fmt.Errorf("occupied prefix %d of %d is invalid", i+1, len(occupied))
		}
		if s, ok := p.span(o); ok {
			busy = append(busy, s)
		}
	}
	for _, r := range reserved {
		if !r.Network.IsValid() {
			return Triple{}, fmt.Errorf("the network of %s is invalid", r.By)
		}
		if s, ok := p.span(r.Network); ok {
			busy = append(busy, s)
		}
	}
	busy = busy.merged()

	first := p.firstBlock(slug)
	block, ok := busy.nextFree(first, p.blocks)
	if !ok {
		block, ok = busy.nextFree(0, first)
	}
	if !ok {
		if by := p.exclusions(reserved); by != "" {
			return Triple{}, fmt.Errorf("%w: all %d networks of /%d in %s are taken on this node, or excluded because they are in use elsewhere (%s); give the agent another or a larger pool (--subnet-pool), or remove a Bottle, docker network or route on the node",
				ErrExhausted, p.Len(), p.bits, p.pool, by)
		}
		return Triple{}, fmt.Errorf("%w: all %d networks of /%d in %s are taken or excluded on this node; remove a Bottle, docker network or route there, or give the agent a larger pool (--subnet-pool)",
			ErrExhausted, p.Len(), p.bits, p.pool)
	}
	return TripleOf(p.prefix(block))
}

// firstBlock returns the number of FirstChoice's block, counting excluded blocks
// too.
func (p *Pool) firstBlock(slug string) uint64 {
	digest := sha256.Sum256([]byte(slug))
	n := new(big.Int).SetBytes(digest[:])
	n.Mod(n, big.NewInt(int64(p.Len())))
	return p.excluded.nthFree(n.Uint64())
}
