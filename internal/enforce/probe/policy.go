// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"net/netip"
	"slices"
)

// sightings are the attempts that the node saw refused.
type sightings struct {
	drops   map[Drop]bool // without packets
	dropped map[netip.Addr]bool
	denials map[netip.AddrPort]bool
	denied  map[netip.Addr]bool
}

func (e Evidence) sightings() sightings {
	s := sightings{map[Drop]bool{}, map[netip.Addr]bool{}, map[netip.AddrPort]bool{}, map[netip.Addr]bool{}}
	for _, d := range e.Drops {
		if d.Packets == 0 {
			continue
		}
		addr := plainAddr(d.Addr)
		s.drops[Drop{Proto: d.Proto, Addr: addr, Port: d.Port}] = true
		s.dropped[addr] = true
	}
	if !e.DenialsKnown {
		return s
	}
	for _, d := range e.Denials {
		addr := plainAddr(d.Addr())
		s.denials[netip.AddrPortFrom(addr, d.Port())] = true
		s.denied[addr] = true
	}
	return s
}

// saw reports whether an attempt on exactly this target was refused.
func (s sightings) saw(t Target) bool {
	return s.deniedTarget(t) || s.drops[Drop{Proto: wallProto(t), Addr: t.Addr, Port: t.Port}]
}

func (s sightings) deniedTarget(t Target) bool {
	return t.Port != 0 && s.denials[netip.AddrPortFrom(t.Addr, t.Port)]
}

// sawAddr reports whether any attempt on an address was refused, including an
// ARP request for it that the wall dropped.
func (s sightings) sawAddr(addr netip.Addr) bool { return s.dropped[addr] || s.denied[addr] }

// wallProto returns the protocol under which the wall counts attempts on a
// target.
func wallProto(t Target) string {
	switch {
	case t.Proto == ProtoDNS:
		return ProtoUDP
	case t.Proto == ProtoICMP && t.Addr.Is6():
		return "icmpv6"
	}
	return t.Proto
}

// refusedByPolicy are the kinds that smolvm refuses if its policy allows only
// the bundle's address. policyNote checks only TCP over IPv4: the guest
// certainly has IPv4, and every release reports refused TCP connections.
var refusedByPolicy = []Kind{KindGateway, KindNode, KindNeighbour, KindMetadata, KindPublic}

// policyNote explains why it is not known that smolvm's own wall held, or
// returns "" if it is known.
func (e Evidence) policyNote(s sightings, results map[Target]Result) string {
	switch {
	case e.Policy == PolicyDiffers:
		return "smolvm does not list the bundle's address as the one that the machine may reach"
	case e.Policy == PolicyDropped:
		return "this release of smolvm drops the policy of a machine that is made from an artifact; 1.8.0 and newer keep it"
	case e.Policy != PolicyExact:
		return "this release of smolvm does not list a machine's policy"
	case !e.DenialsKnown:
		return "this release of smolvm does not report what it refused"
	case s.dropped[e.Plan.gateway()]:
		return "smolvm lists the policy but let a packet to the gateway through; the wall dropped it"
	}
	for _, t := range e.Plan.Avoid {
		if t.Proto != ProtoTCP || !t.Addr.Is4() || !slices.Contains(refusedByPolicy, t.Kind) {
			continue
		}
		if results[t].Outcome == Accepted {
			return "smolvm lists the policy but accepted a connection: " + t.String()
		}
		if !s.deniedTarget(t) {
			return "smolvm lists the policy but did not report that it refused " + t.String()
		}
	}
	return ""
}
