// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"net/netip"
	"slices"
)

// Bounds on the targets of each kind, so that a plan stays small on any node.
const (
	maxOther       = 4
	maxNode        = 3 // of each family
	maxNeighbours  = 2
	maxPod         = 2
	maxServices    = 1
	maxPublic      = 4
	portDNS        = 53
	portMetadata   = 80
	invalidPort    = "not a TCP port from 1 to 65535"
	invalidAddress = "not an address of another host"
)

// Addresses that are the same everywhere.
var (
	loopbacks = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	// vmmGateway is smolvm's gateway and resolver in every guest's network,
	// which leads a guest without policy to the VMM's own loopback.
	vmmGateway = netip.MustParseAddr("100.96.0.1")
	metadata   = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254")}
)

// Plan returns what a proof tries at this site, in an order that depends only on
// the site. It takes the first few entries of long lists. An error names what is
// invalid about the site.
func (s Site) Plan() (Plan, error) {
	if err := s.check(); err != nil {
		return Plan{}, fmt.Errorf("proof: %w", err)
	}
	p := Plan{Version: version, Nonce: s.Nonce, Floor: s.Floor, Ceiling: s.Ceiling}
	for _, port := range s.Ports {
		p.Reach = append(p.Reach, Target{Kind: KindBundlePort, Proto: ProtoTCP, Addr: s.BundleIP, Port: uint16(port)})
	}
	for _, port := range first(without53(s.Other), maxOther) {
		p.avoid(Target{Kind: KindOtherPort, Proto: ProtoTCP, Addr: s.BundleIP, Port: uint16(port)})
	}
	s.planNode(&p)
	s.planBeyond(&p)
	s.planNames(&p)
	if err := p.check(); err != nil {
		return Plan{}, fmt.Errorf("proof: %w", err)
	}
	return p, nil
}

// planNode adds the node's addresses, on which the canaries listen.
func (s Site) planNode(p *Plan) {
	s.planCanaries(p, KindGateway, s.Gateway)
	p.avoid(Target{Kind: KindGateway, Proto: ProtoICMP, Addr: s.Gateway})
	for _, addr := range loopbacks {
		s.planCanaries(p, KindLoopback, addr)
	}
	taken := map[bool]int{}
	for _, addr := range s.Node {
		addr = addr.Unmap()
		if taken[addr.Is4()] == maxNode || addr == s.Gateway {
			continue
		}
		taken[addr.Is4()]++
		s.planCanaries(p, KindNode, addr)
	}
	s.planCanaries(p, KindVMM, vmmGateway)
}

func (s Site) planCanaries(p *Plan, kind Kind, addr netip.Addr) {
	p.avoid(Target{Kind: kind, Proto: ProtoTCP, Addr: addr, Port: s.CanaryTCP, Canary: true})
	p.avoid(Target{Kind: kind, Proto: ProtoUDP, Addr: addr, Port: s.CanaryUDP, Canary: true})
}

// planBeyond adds targets that belong to neither the Bottle nor the node.
func (s Site) planBeyond(p *Plan) {
	for _, n := range first(s.Neighbours, maxNeighbours) {
		if n.Port() == portDNS {
			continue
		}
		p.avoid(Target{Kind: KindNeighbour, Proto: ProtoTCP, Addr: n.Addr().Unmap(), Port: n.Port()})
	}
	for _, addr := range first(s.Pod, maxPod) {
		if port := uint16(s.Ports[0]); port != portDNS {
			p.avoid(Target{Kind: KindPod, Proto: ProtoTCP, Addr: addr.Unmap(), Port: port})
		}
	}
	for _, n := range first(s.Services, maxServices) {
		p.avoid(Target{Kind: KindService, Proto: ProtoTCP, Addr: n.Addr().Unmap(), Port: n.Port()})
	}
	for _, addr := range metadata {
		p.avoid(Target{Kind: KindMetadata, Proto: ProtoTCP, Addr: addr, Port: portMetadata})
	}
	for _, t := range first(s.Public, maxPublic) {
		if t.Port() == portDNS {
			continue // see without53, and planNames
		}
		p.avoid(Target{Kind: KindPublic, Proto: ProtoTCP, Addr: t.Addr().Unmap(), Port: t.Port()})
		p.avoid(Target{Kind: KindPublic, Proto: ProtoUDP, Addr: t.Addr().Unmap(), Port: t.Port()})
	}
}

// planNames adds name servers, because smolvm forwards every query of a guest to
// its host's resolver, whatever address the query was sent to.
func (s Site) planNames(p *Plan) {
	p.avoid(Target{Kind: KindResolver, Proto: ProtoDNS})
	servers := []netip.Addr{s.Gateway, s.BundleIP, vmmGateway}
	for i, t := range first(s.Public, maxPublic) {
		if i == 0 || t.Port() == portDNS {
			servers = append(servers, t.Addr().Unmap())
		}
	}
	for _, addr := range servers {
		p.avoid(Target{Kind: KindResolver, Proto: ProtoDNS, Addr: addr, Port: portDNS})
	}
}

// without53 leaves out port 53. There, smolvm's gateway answers for every
// address, so neither the wall nor the target would see the attempt.
func without53(ports []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(ports), func(port int32) bool { return port == portDNS })
}

// avoid adds a target to Avoid, unless it is already there.
func (p *Plan) avoid(t Target) {
	if !slices.Contains(p.Avoid, t) {
		p.Avoid = append(p.Avoid, t)
	}
}

func (s Site) check() error {
	switch {
	case !s.BundleIP.Is4() || !s.Gateway.Is4() || s.BundleIP == s.Gateway:
		return fmt.Errorf("bundle %s and gateway %s: want two IPv4 addresses", s.BundleIP, s.Gateway)
	case s.CanaryTCP == 0 || s.CanaryUDP == 0:
		return fmt.Errorf("canaries on TCP port %d and UDP port %d: want two ports", s.CanaryTCP, s.CanaryUDP)
	}
	if err := s.checkPorts(); err != nil {
		return err
	}
	for _, addr := range s.Node {
		if !isOther(addr) || addr.Unmap() == s.BundleIP {
			return fmt.Errorf("node address %s: %s", addr, invalidAddress)
		}
	}
	others := slices.Concat(s.Neighbours, s.Services, s.Public)
	for _, addr := range s.Pod {
		others = append(others, netip.AddrPortFrom(addr, uint16(s.Ports[0])))
	}
	for _, n := range others {
		if addr := n.Addr(); n.Port() == 0 || !isOther(addr) || addr.Unmap() == s.BundleIP || addr.Unmap() == s.Gateway {
			return fmt.Errorf("address %s of a neighbour, Pod or service, or public: %s", n, invalidAddress)
		}
	}
	return nil
}

func (s Site) checkPorts() error {
	for i, port := range slices.Concat(s.Ports, s.Other) {
		all := slices.Concat(s.Ports, s.Other)
		if port < 1 || port > 65535 {
			return fmt.Errorf("port %d of the bundle: %s", port, invalidPort)
		}
		if slices.Contains(all[:i], port) {
			return fmt.Errorf("port %d of the bundle: listed twice", port)
		}
	}
	return nil
}

// isOther reports whether addr can be another host's address.
func isOther(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsValid() && addr.Zone() == "" && !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsMulticast()
}

func first[T any](list []T, most int) []T { return list[:min(len(list), most)] }
