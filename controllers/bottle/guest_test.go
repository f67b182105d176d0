// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/workload"
)

// publicTargets are the internet addresses that the proofs of these tests try.
var publicTargets = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:443")}

// conduct is how a guest behaves when the prober runs in it.
type conduct string

const (
	// honest tries everything, behind a smolvm that enforces nothing.
	honest conduct = "honest"
	// policed tries everything, behind a smolvm that refuses and reports it.
	policed conduct = "policed"
	// liar reports the desired results, but tries nothing except the bundle.
	liar conduct = "liar"
	// mute cannot run the prober.
	mute conduct = "mute"
	// deaf does not reach its bundle.
	deaf conduct = "deaf"
	// garbled prints no report.
	garbled conduct = "garbled"
	// leaky reaches the node's address, and reports it.
	leaky conduct = "leaky"
	// hitting reaches a canary with the proof's nonce, but does not report it.
	hitting conduct = "hitting"
)

// testGuest simulates the effects on the node of a prober that runs in a guest.
type testGuest struct {
	world *world

	mu     sync.Mutex
	does   conduct
	proofs int
	stops  int // how often the workload was asked to end
}

func (g *testGuest) set(does conduct) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.does = does
}

// count returns how many proofs were run so far.
func (g *testGuest) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.proofs
}

func (g *testGuest) exec(name string, req host.ExecRequest) (int, error) {
	g.mu.Lock()
	if slices.Equal(req.Command, workload.StopCommand()) {
		defer g.mu.Unlock()
		g.stops++
		return 0, nil
	}
	does := g.does
	g.proofs++
	g.mu.Unlock()
	if does == mute {
		return 255, nil
	}
	plan, err := probe.DecodePlan(req.Stdin)
	if err != nil {
		return 2, nil
	}
	owner := g.world.ownerOf(name)
	report := probe.Report{Version: plan.Version, Nonce: plan.Nonce, RoundTrip: 1}
	for _, t := range plan.Reach {
		outcome := probe.Reached
		if does == deaf {
			outcome = probe.TimedOut
		} else {
			g.world.walls.CountAccepted(owner, int32(t.Port), 3)
		}
		report.Results = append(report.Results, probe.Result{Target: t, Outcome: outcome})
	}
	for _, t := range plan.Avoid {
		outcome := probe.TimedOut
		switch {
		case does == leaky && t.Kind == probe.KindNode:
			outcome = probe.Reached
		case does != liar:
			g.try(owner, does, t)
		}
		report.Results = append(report.Results, probe.Result{Target: t, Outcome: outcome})
	}
	if does == hitting {
		g.world.enforcer.RecordHit(host.CanaryHit{Proto: "tcp", Nonce: plan.Nonce,
			Local: netip.MustParseAddrPort("10.0.0.5:4711"), Remote: netip.MustParseAddrPort("10.0.0.5:999")})
	}
	out, err := probe.EncodeReport(report)
	if err != nil {
		return 0, err
	}
	if does == garbled {
		out = []byte("all is well\n")
	}
	_, err = req.Stdout.Write(out)
	return 0, err
}

// try records the traces of an attempt on the node.
func (g *testGuest) try(owner host.Owner, does conduct, t probe.Target) {
	refused := does == policed && t.Proto == probe.ProtoTCP && t.Addr.Is4() && t.Kind != probe.KindOtherPort
	switch {
	case refused:
		g.world.machines.AddDenials(owner.ID(), host.Denial{Time: g.world.clock.Now(), Dest: netip.AddrPortFrom(t.Addr, t.Port)})
	case t.Kind == probe.KindOtherPort:
		g.world.walls.AddDrop(owner, host.Drop{Proto: "tcp", Addr: t.Addr, Port: t.Port, Packets: 1})
	case t.Kind == probe.KindGateway && does != policed:
		g.world.walls.AddDrop(owner, host.Drop{Proto: "arp", Addr: t.Addr, Packets: 1})
	}
}

// ownerOf returns the owner of the wall that a machine runs behind.
func (w *world) ownerOf(name string) host.Owner {
	for _, spec := range w.enforcer.Walls() {
		if spec.Owner.ID() == name {
			return spec.Owner
		}
	}
	w.t.Errorf("the prober ran in %s, which has no wall", name)
	return host.Owner{}
}

// netns returns the identity of a wall's namespace, or that of the node's own
// namespace for any other path.
func (w *world) netns(path string) host.NetNS {
	for _, spec := range w.enforcer.Walls() {
		if _, wall, ok := w.walls.Get(spec.Owner); ok && wall.Path == path {
			return wall.NetNS
		}
	}
	return host.NetNS{Dev: 4, Inode: 1}
}

// guestProgram returns the path of a dummy for bottle-guest. No real guest runs it.
func (w *world) guestProgram() string {
	path := filepath.Join(w.imageDir, "bottle-guest")
	if err := os.WriteFile(path, []byte("prober"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return path
}
