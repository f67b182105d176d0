// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"net/netip"
	"slices"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

// plan returns what a proof of this Bottle tries on this node.
func (p *prover) plan(ctx context.Context, s Subject, nonce string) (probe.Plan, error) {
	tcp, udp := p.Canaries.Ports()
	site := probe.Site{
		Nonce: nonce, BundleIP: s.Spec.BundleIP, Ports: s.Spec.Ports, Gateway: gateway(s.Spec),
		CanaryTCP: tcp, CanaryUDP: udp, Public: p.ProofTargets, Services: p.Services,
		Floor: patienceFloor, Ceiling: patienceCeiling,
	}
	for _, port := range otherPorts {
		if !slices.Contains(s.Spec.Ports, port) && len(site.Other) < maxOtherPorts {
			site.Other = append(site.Other, port)
		}
	}
	var err error
	if site.Node, err = p.nodeAddresses(s); err != nil {
		return probe.Plan{}, err
	}
	site.Pod = p.podAddresses(ctx, s.Spec.Owner, s.Spec)
	for _, n := range p.watched.neighbours(s.Spec, maxNeighbours) {
		if len(n.Ports) == 0 {
			continue
		}
		addresses := []netip.Addr{n.BundleIP}
		if p.inPod(n.Owner) {
			addresses = p.podAddresses(ctx, n.Owner, s.Spec) // its bundle's own address is inside its Pod
		}
		// Two Bottles of which at least one is in a Pod may have the same subnet. An
		// address in it leads the guest to its own bundle.
		if len(addresses) > 0 && !s.Spec.Subnet.Contains(addresses[0]) {
			site.Neighbours = append(site.Neighbours, netip.AddrPortFrom(addresses[0], uint16(n.Ports[0])))
		}
	}
	return site.Plan()
}

// nodeAddresses returns the node's addresses, without the gateways of other Bottles, which
// are not additional paths to the node.
func (p *prover) nodeAddresses(s Subject) (out []netip.Addr, err error) {
	addresses, err := p.Canaries.Addresses()
	if err != nil {
		return nil, err
	}
	gateways := map[netip.Addr]bool{}
	for _, w := range p.watched.specs() {
		if !p.inPod(w.Owner) { // those of Pods are not the node's
			gateways[gateway(w)] = true
		}
	}
	for _, a := range addresses {
		if !gateways[a] && a != s.Spec.BundleIP {
			out = append(out, a)
		}
	}
	return out, nil
}

func (p *prover) inPod(owner host.Owner) bool { return p.Pods != nil && p.Pods.InPod(owner.UID) }

// podAddresses returns the addresses of the owner's Pod that are outside the network of a
// wall. It returns none if they are not known: the proof then does without them.
func (p *prover) podAddresses(ctx context.Context, owner host.Owner, wall host.WallSpec) (out []netip.Addr) {
	if !p.inPod(owner) {
		return nil
	}
	addresses, err := p.Pods.Addresses(ctx, owner)
	if err != nil {
		p.Log.Error(err, "The addresses of a Pod are not known, so a proof does not try them", "machine", owner.ID())
		return nil
	}
	return slices.DeleteFunc(addresses, func(a netip.Addr) bool {
		return wall.Subnet.Contains(a) || !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Zone() != ""
	})
}
