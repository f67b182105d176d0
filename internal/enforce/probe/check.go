// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	version = 1 // of Plan and Report
	// maxTargets bounds a plan: smolvm's gateway serves 256 connections, which
	// the prober shares with the guest's own.
	maxTargets = 64
	maxReach   = 16 // as many ports as a Bottle may declare
	maxCeiling = 30 * time.Second
)

var protos = []string{ProtoTCP, ProtoUDP, ProtoDNS, ProtoICMP}

// avoided are the kinds that must not be reached.
var avoided = []Kind{KindOtherPort, KindGateway, KindLoopback, KindNode, KindNeighbour, KindPod, KindService, KindMetadata, KindPublic, KindResolver, KindVMM}

// check returns an error if the plan is invalid. A plan proves nothing if it has
// no port to reach, or no target that the wall must be seen to refuse.
func (p Plan) check() error {
	switch {
	case p.Version != version:
		return fmt.Errorf("version %d: want %d", p.Version, version)
	case len(p.Nonce) != nonceLength || !isHex(p.Nonce):
		return fmt.Errorf("the nonce is not %d characters of [0-9a-f]", nonceLength)
	case p.Floor <= 0 || p.Ceiling < p.Floor || p.Ceiling > maxCeiling:
		return fmt.Errorf("patience from %s to %s: want more than 0, and at most %s", p.Floor, p.Ceiling, maxCeiling)
	case len(p.Reach) == 0 || len(p.Reach) > maxReach:
		return fmt.Errorf("%d targets to reach: want 1 to %d", len(p.Reach), maxReach)
	case len(p.Reach)+len(p.Avoid) > maxTargets:
		return fmt.Errorf("%d targets: want at most %d", len(p.Reach)+len(p.Avoid), maxTargets)
	}
	return errors.Join(p.checkReach(), p.checkAvoid())
}

func (p Plan) checkReach() error {
	for i, t := range p.Reach {
		switch {
		case t.Kind != KindBundlePort || t.Proto != ProtoTCP || t.Port == 0 || t.Canary:
			return fmt.Errorf("%s: only TCP ports of the bundle can be reached", t)
		case !t.Addr.Is4() || t.Addr != p.Reach[0].Addr:
			return fmt.Errorf("%s: the bundle has one IPv4 address", t)
		case slices.Contains(p.Reach[:i], t):
			return fmt.Errorf("%s: listed twice", t)
		}
	}
	return nil
}

func (p Plan) checkAvoid() error {
	seen := map[Target]bool{}
	kinds := map[Kind]bool{}
	for _, t := range p.Avoid {
		if err := p.checkTarget(t); err != nil {
			return err
		}
		if seen[t] {
			return fmt.Errorf("%s: listed twice", t)
		}
		seen[t], kinds[t.Kind] = true, true
	}
	if !kinds[KindOtherPort] || !kinds[KindGateway] {
		return errors.New("nothing to avoid: want another port of the bundle and the gateway, which the wall must be seen to refuse")
	}
	return nil
}

func (p Plan) checkTarget(t Target) error {
	wellKnown := slices.Contains(avoided, t.Kind) && slices.Contains(protos, t.Proto)
	hasAddr := t.Addr.IsValid() && !t.Addr.Is4In6() && t.Addr.Zone() == ""
	switch {
	case !wellKnown:
		return fmt.Errorf("unknown kind %q or protocol %q", t.Kind, t.Proto)
	case !hasAddr && (t.Addr.IsValid() || t.Proto != ProtoDNS):
		return fmt.Errorf("%s: not a plain address", t)
	case (t.Port == 0) != (t.Proto == ProtoICMP || !hasAddr):
		return fmt.Errorf("%s: unexpected port %d", t, t.Port)
	case t.Canary && t.Proto != ProtoTCP && t.Proto != ProtoUDP:
		return fmt.Errorf("%s: a canary must be on a TCP or UDP port", t)
	case t.Kind == KindOtherPort && (t.Addr != p.bundle() || t.Proto != ProtoTCP):
		return fmt.Errorf("%s: not a TCP port of the bundle", t)
	case t.Kind == KindGateway && (t.Addr != p.gateway() || t.Addr == p.bundle()):
		return fmt.Errorf("%s: a plan has one gateway, which is not the bundle", t)
	case t.Addr == p.bundle() && t.Proto == ProtoTCP && slices.ContainsFunc(p.Reach, func(r Target) bool { return r.Port == t.Port }):
		return fmt.Errorf("%s: listed as a target both to reach and to avoid", t)
	}
	return nil
}

// bundle returns the address of the plan's bundle; not valid if it has none.
func (p Plan) bundle() netip.Addr {
	if len(p.Reach) == 0 {
		return netip.Addr{}
	}
	return p.Reach[0].Addr
}

// gateway returns the node's address in the bundle's network; not valid if the
// plan has none.
func (p Plan) gateway() netip.Addr {
	i := slices.IndexFunc(p.Avoid, func(t Target) bool { return t.Kind == KindGateway })
	if i < 0 {
		return netip.Addr{}
	}
	return p.Avoid[i].Addr
}
