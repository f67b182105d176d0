// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	testclock "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/state"
)

const uid = "1a2b3c4d-0000-4000-8000-000000000000"

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// post is a node with a machine behind its wall, and a guard.
type post struct {
	t        *testing.T
	faults   *hosttest.Faults
	walls    *hosttest.Walls
	machines *hosttest.Machines
	clock    *testclock.FakeClock
	stateDir string
	interval time.Duration
	dir      *state.Dir
	enforcer *enforce.Enforcer

	metrics *prometheus.Registry // of proofs; nil for none
	conduct func(probe.Target) probe.Outcome
	during  func(probe.Plan) // runs in the guest while it is proven
	proofs  int

	mu      sync.Mutex
	changed []string
}

// ask is the request of a Bottle whose annotation has this value.
func ask(prove string) enforce.Request { return enforce.Request{Generation: 1, Prove: prove} }

func owner() host.Owner {
	return host.Owner{UID: uid, Namespace: "default", Name: "demo", Slug: "demo", Cluster: "c", Node: "n"}
}

func spec() host.WallSpec { return specOf(owner(), "44") }

func specOf(o host.Owner, third string) host.WallSpec {
	net := "192.168." + third + "."
	return host.WallSpec{Owner: o, Subnet: netip.MustParsePrefix(net + "0/24"), BundleIP: netip.MustParseAddr(net + "2"),
		MachineIP: netip.MustParseAddr(net + "3"), Ports: []int32{8888}}
}

// newPost is a machine that runs where it should, and is watched over.
func newPost(t *testing.T) *post {
	t.Helper()
	p := &post{t: t, faults: &hosttest.Faults{}, clock: testclock.NewFakeClock(epoch), stateDir: t.TempDir(), interval: time.Second}
	p.walls = hosttest.NewWalls(p.faults)
	p.machines = hosttest.NewMachines(p.faults)
	p.machines.ResolveNetNS(func(path string) host.NetNS {
		if _, w, ok := p.walls.Get(owner()); ok && w.Path == path {
			return w.NetNS
		}
		return host.NetNS{Dev: 4, Inode: 1} // the node's own
	})
	p.restart()
	folder, err := p.dir.Folder(uid)
	if err == nil {
		err = folder.Ensure(owner())
	}
	if err != nil {
		t.Fatal(err)
	}
	w := p.ensure("1")
	p.machines.Add(host.Machine{Name: owner().ID(), UID: uid, State: host.MachineCreated})
	p.start(w.Path)
	return p
}

// restart begins another agent's guard over the same node and state.
func (p *post) restart() {
	p.t.Helper()
	var err error
	if p.dir, err = state.Open(p.stateDir); err != nil {
		p.t.Fatal(err)
	}
	var metrics *enforce.Metrics
	if p.metrics != nil {
		if metrics, err = enforce.NewMetrics(p.metrics); err != nil {
			p.t.Fatal(err)
		}
	}
	p.enforcer, err = enforce.New(enforce.Options{Metrics: metrics, Walls: p.walls, Machines: p.machines, Canaries: &hosttest.Canaries{}, State: p.dir,
		Clock: p.clock, Log: logr.Discard(), Interval: p.interval, Prober: "doc.go", MaxConcurrentProofs: 2})
	if err != nil {
		p.t.Fatal(err)
	}
	p.enforcer.Subscribe(func(uid string) { p.mu.Lock(); defer p.mu.Unlock(); p.changed = append(p.changed, uid) })
}

func (p *post) expect(nonce string) {
	p.t.Helper()
	if err := p.enforcer.Expect(uid, nonce, "1.32.2", "virtio-net"); err != nil {
		p.t.Fatal(err)
	}
}

// touch lets a canary be touched, and what follows be done.
func (p *post) touch(t host.Touch) {
	p.enforcer.Touched(t)
	p.enforcer.Settle()
}

// ensure makes the wall as a pass does for a Bottle whose request is this.
func (p *post) ensure(request string) host.Wall {
	p.t.Helper()
	w, err := p.enforcer.EnsureWall(p.t.Context(), spec(), ask(request))
	if err != nil {
		p.t.Fatalf("ensure: %v", err)
	}
	return w
}

func (p *post) start(netns string) {
	p.t.Helper()
	if err := p.machines.StartMachine(p.t.Context(), owner().ID(), netns); err != nil {
		p.t.Fatal(err)
	}
}

func (p *post) runs() bool {
	vmms, err := p.machines.VMMs(p.t.Context(), []string{owner().ID()})
	if err != nil {
		p.t.Fatal(err)
	}
	return len(vmms) > 0
}

func (p *post) wantRuns(want bool) {
	p.t.Helper()
	if got := p.runs(); got != want {
		p.t.Errorf("machine runs: got %v, want %v", got, want)
	}
}

func (p *post) wantFaults(want int) {
	p.t.Helper()
	walls, err := p.walls.InspectWalls(p.t.Context(), []host.WallSpec{spec()})
	if err != nil || len(walls[0].Faults) != want {
		p.t.Errorf("faults of the wall: got %+v, %v, want %d", walls, err, want)
	}
}

func TestWhatDoesNotHoldIsMadeSafe(t *testing.T) {
	tests := map[string]struct {
		change func(p *post)
		runs   bool
		says   string // of the breach; "" is none
	}{
		"all is well": {func(*post) {}, true, ""},
		"an open wall": {func(p *post) { p.walls.Break(owner(), host.WallFault{What: "the chain is gone", Open: true}) },
			false, "the wall was open: the chain is gone"},
		"a broken wall that is closed": {func(p *post) { p.walls.Break(owner(), host.WallFault{What: "the link is gone"}) }, true, ""},
		"an open one behind a closed one": {func(p *post) {
			p.walls.Break(owner(), host.WallFault{What: "the loopback is up"})
			p.walls.Break(owner(), host.WallFault{What: "the chain is gone", Open: true})
		}, false, "the wall was open: the chain is gone"},
		"a machine elsewhere": {func(p *post) { p.machines.MoveVMM(owner().ID(), host.NetNS{Dev: 1, Inode: 1}) },
			false, "the machine ran outside its wall's network namespace"},
		"a second VMM elsewhere": {func(p *post) { p.machines.AddVMM(owner().ID(), host.NetNS{Dev: 1, Inode: 1}) },
			false, "the machine ran outside its wall's network namespace"},
		"no wall at all": {func(p *post) {
			if err := p.walls.DeleteWall(p.t.Context(), owner()); err != nil {
				p.t.Fatal(err)
			}
		}, false, "the machine ran outside its wall's network namespace"},
	}
	for name, tt := range tests {
		for _, way := range []string{"by a look", "by a pass", "by another agent's look"} {
			t.Run(name+" "+way, func(t *testing.T) {
				p := newPost(t)
				tt.change(p)
				switch way {
				case "by a look":
					p.enforcer.Look(t.Context())
				case "by a pass":
					p.ensure("1")
				default:
					p.restart()
					p.enforcer.Look(t.Context())
				}
				p.wantRuns(tt.runs)
				p.wantFaults(0)
				b := p.enforcer.TakeBreach(uid)
				if got := b != nil; got != (tt.says != "") || got && (b.What != tt.says || !b.Time.Equal(epoch)) {
					t.Errorf("breach: got %+v, want %q", b, tt.says)
				}
				if told := slices.Contains(p.changed, uid); told != (name != "all is well") {
					t.Errorf("told: got %v, want %v", told, !told)
				}
				if again := p.enforcer.TakeBreach(uid); again != nil {
					t.Errorf("breach taken twice: got %+v, want none", again)
				}
			})
		}
	}
}

// The machine goes before the wall is mended: between the two nothing leaks.
func TestTheMachineGoesFirst(t *testing.T) {
	p := newPost(t)
	p.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	p.faults.ResetCalls()
	p.enforcer.Look(t.Context())
	calls := p.faults.Calls()
	killed, mended := slices.Index(calls, "KillMachine "+owner().ID()), slices.Index(calls, "EnsureWall "+owner().ID())
	if killed < 0 || mended < 0 || killed > mended {
		t.Errorf("calls: got %q, want the kill before the mending", calls)
	}
}

func TestAMachineThatCannotBeKilledIsTriedAgain(t *testing.T) {
	p := newPost(t)
	p.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	p.faults.Fail("KillMachine", hosttest.Before, 1, errors.New("not yet"))
	p.enforcer.Look(t.Context())
	p.wantRuns(true)
	p.wantFaults(0) // mended at least
	if !slices.Contains(p.changed, uid) || p.enforcer.State(uid).Breach == nil {
		t.Errorf("told %v, breach %+v, want it told and kept whatever came of the kill", p.changed, p.enforcer.State(uid).Breach)
	}
	p.enforcer.Look(t.Context())
	p.wantRuns(false)
}

// An agent that cannot read a wall, for want of descriptors say, knows nothing
// of it: it kills nothing, and has it looked at.
func TestAWallThatCannotBeReadStopsNothing(t *testing.T) {
	p := newPost(t)
	p.walls.Unreadable(owner(), errors.New("too many open files"))
	p.enforcer.Look(t.Context())
	p.wantRuns(true)
	if !slices.Contains(p.changed, uid) {
		t.Error("told: got nothing, want the Bottle looked at")
	}
	if _, err := p.enforcer.EnsureWall(t.Context(), spec(), ask("1")); err == nil {
		t.Error("ensure: got no error, want that it cannot be read")
	}
	p.changed = nil
	p.walls.Unreadable(owner(), nil)
	p.enforcer.Look(t.Context())
	if !slices.Contains(p.changed, uid) {
		t.Error("told of the end of it: got nothing, want the Bottle looked at")
	}
}

// Another release writes other rules: what stands as it last stood is no
// breach, and is replaced under the running machine.
func TestAFilterOfAnEarlierReleaseIsNoBreach(t *testing.T) {
	other := host.WallFault{What: "the filter has other rules", Open: true, Rules: true}
	p := newPost(t)
	p.walls.Break(owner(), other)
	p.restart()
	p.enforcer.Look(t.Context())
	p.wantRuns(true)
	p.wantFaults(0)
	folder, err := p.dir.Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	record, err := folder.Wall()
	if err != nil || record.Filter == "" {
		t.Fatalf("record: got %+v, %v, want the filter's digest", record, err)
	}
	record.Filter = "another"
	if err := folder.WriteWall(*record); err != nil {
		t.Fatal(err)
	}
	p.walls.Break(owner(), other)
	p.restart()
	p.enforcer.Look(t.Context())
	p.wantRuns(false)
}

// A leak is told once before it can be forgiven, whatever the user changed
// before.
func TestALeakIsToldBeforeItIsForgiven(t *testing.T) {
	p := newPost(t)
	p.expect("abc123")
	p.touch(host.Touch{Proto: "udp", Nonce: "abc123"})
	p.ensure("2") // the user changed something just now
	if p.enforcer.State(uid).Leak == nil {
		t.Fatal("leak: got it forgiven, want it told first")
	}
	if got := p.enforcer.Leak(uid, ask("2")); got == nil || got.ReportedFor != ask("2").String() {
		t.Errorf("told: got %+v, want it of state 2", got)
	}
	if got := p.enforcer.Leak(uid, ask("3")); got != nil {
		t.Errorf("of another state: got %+v, want none", got)
	}
	p.ensure("3")
	if got := p.enforcer.State(uid).Leak; got != nil {
		t.Errorf("leak: got %+v, want it forgiven", got)
	}
}

// A leak is known whatever else on the disk is broken, and is written as soon
// as that is possible.
func TestEvidenceIsHardToLose(t *testing.T) {
	p := newPost(t)
	folder, err := p.dir.Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	away := folder.Path() + ".away"
	if err := os.Rename(folder.Path(), away); err != nil {
		t.Fatal(err)
	}
	p.enforcer.FoundLeak(uid, "tcp to everywhere")
	p.enforcer.Settle()
	if err := os.Rename(away, folder.Path()); err != nil {
		t.Fatal(err)
	}
	p.enforcer.Look(t.Context())
	if err := os.WriteFile(folder.Path()+"/wall.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.restart()
	if got := p.enforcer.Leak(uid, ask("1")); got == nil || got.Path != "tcp to everywhere" {
		t.Errorf("leak for another agent: got %+v, want the evidence", got)
	}
}

func TestALookThatFailsStopsNothing(t *testing.T) {
	for _, call := range []string{"InspectWalls", "VMMs"} {
		t.Run(call, func(t *testing.T) {
			p := newPost(t)
			p.faults.Fail(call, hosttest.Before, 1, errors.New("interrupted"))
			p.enforcer.Look(t.Context())
			p.wantRuns(true)
			if got := p.enforcer.TakeBreach(uid); got != nil {
				t.Errorf("breach: got %+v, want none: nothing was found out", got)
			}
		})
	}
}

func TestReleasedWallsAreNotWatched(t *testing.T) {
	p := newPost(t)
	if err := p.enforcer.Release(t.Context(), owner()); err != nil {
		t.Fatal(err)
	}
	p.faults.ResetCalls()
	p.enforcer.Look(t.Context())
	if calls := p.faults.Calls(); len(calls) > 0 {
		t.Errorf("calls after the release: got %q, want none", calls)
	}
	p.restart()
	if got := p.enforcer.State(uid); got.Watched {
		t.Errorf("another agent: got %+v, want nothing to watch", got)
	}
}

func TestALeakLastsUntilAskedAnew(t *testing.T) {
	p := newPost(t)
	p.expect("abc123")
	p.touch(host.Touch{Proto: "udp", Nonce: "abc123", Local: netip.MustParseAddrPort("10.1.1.1:4711"), Remote: netip.MustParseAddrPort("192.168.44.3:9")})
	p.wantRuns(false)
	if told := p.enforcer.Leak(uid, ask("1")); told == nil {
		t.Fatal("told of it: got no leak, want it to count")
	}
	want := state.Leak{Time: epoch, Path: "udp to 10.1.1.1:4711, a canary of the node", Smolvm: "1.32.2", Backend: "virtio-net", ReportedFor: ask("1").String()}
	if leak := p.enforcer.State(uid).Leak; leak == nil || *leak != want {
		t.Fatalf("evidence: got %+v, want %+v", leak, want)
	}

	// Someone starts it all the same, also while another agent is on duty.
	path := p.enforcer.State(uid).Wall.Path
	p.start(path)
	p.enforcer.Look(t.Context())
	p.wantRuns(false)
	p.restart()
	if leak := p.enforcer.State(uid).Leak; leak == nil || *leak != want {
		t.Errorf("evidence after another agent: got %+v, want %+v", leak, want)
	}
	p.start(path)
	p.enforcer.Look(t.Context())
	p.wantRuns(false)

	p.ensure("1")
	if p.enforcer.State(uid).Leak == nil {
		t.Error("leak after a pass over the same Bottle: got none, want it to last")
	}
	p.ensure("2")
	if got := p.enforcer.State(uid).Leak; got != nil {
		t.Errorf("leak after the Bottle was asked for anew: got %+v, want none", got)
	}
	p.start(path)
	p.enforcer.Look(t.Context())
	p.wantRuns(true)
	p.restart()
	if got := p.enforcer.State(uid).Leak; got != nil {
		t.Errorf("leak for another agent: got %+v, want it forgiven for good", got)
	}
}

// A machine that leaks is killed also when its evidence cannot be kept.
func TestTheKillComesBeforeTheEvidence(t *testing.T) {
	p := newPost(t)
	folder, err := p.dir.Folder(uid)
	if err == nil {
		err = folder.Remove()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.enforcer.FoundLeak(uid, "tcp to everywhere")
	p.enforcer.Settle()
	p.wantRuns(false)
	if p.enforcer.State(uid).Leak == nil {
		t.Error("leak: got none, want it kept in memory at least")
	}
}

func TestDroppedPacketsAddUpOverTheLivesOfTheWall(t *testing.T) {
	p := newPost(t)
	p.drop(5)
	p.enforcer.Look(t.Context())
	p.drop(2)
	p.enforcer.Look(t.Context())
	// The filter is made anew, and counts from nothing.
	if err := p.walls.DeleteWall(t.Context(), owner()); err != nil {
		t.Fatal(err)
	}
	p.enforcer.Look(t.Context())
	p.drop(3)
	p.enforcer.Look(t.Context())
	if got := p.enforcer.State(uid).Dropped; got != 10 {
		t.Errorf("dropped: got %d, want 10", got)
	}
}

func (p *post) drop(packets uint64) {
	p.walls.AddDrop(owner(), host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("192.168.44.1"), Port: 22, Packets: packets})
}

func TestStartLooksUntilItsContextEnds(t *testing.T) {
	p := newPost(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.enforcer.Start(ctx) }()
	p.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	deadline := time.Now().Add(10 * time.Second)
	for p.runs() && time.Now().Before(deadline) {
		p.clock.Step(time.Second)
		time.Sleep(5 * time.Millisecond)
	}
	p.wantRuns(false)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

// Whatever happens to a wall is looked at at once, not at the next interval.
func TestStartLooksWhenSomethingHappens(t *testing.T) {
	p := newPost(t)
	p.interval = 24 * time.Hour
	p.restart()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.enforcer.Start(ctx) }()
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !is(); {
			if time.Now().After(deadline) {
				t.Fatalf("waited for %s", what)
			}
			p.clock.Step(50 * time.Millisecond)
			time.Sleep(time.Millisecond)
		}
	}
	until("the watch", func() bool { return slices.Contains(p.faults.Calls(), "WatchWalls") })
	p.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	until("the machine to be stopped", func() bool { return !p.runs() })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestABadFileLeavesTheOthersWatched(t *testing.T) {
	p := newPost(t)
	bad := owner()
	bad.UID = "55555555-0000-4000-8000-000000000000"
	folder, err := p.dir.Folder(bad.UID)
	if err == nil {
		err = folder.Ensure(bad)
	}
	if err == nil {
		err = os.WriteFile(folder.Path()+"/wall.json", []byte("{"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.restart()
	if !p.enforcer.State(uid).Watched || p.enforcer.State(bad.UID).Watched {
		t.Errorf("watched: got %v and %v, want the good one alone", p.enforcer.State(uid).Watched, p.enforcer.State(bad.UID).Watched)
	}
}

// A wall that cannot be mended, for what is in the way is someone else's, is
// none to start a machine behind.
func TestAWallThatDoesNotStandIsNoWall(t *testing.T) {
	p := newPost(t)
	p.walls.Keep(owner(), host.WallFault{What: "a chain of someone else's sees packets first", Open: true})
	_, err := p.enforcer.EnsureWall(t.Context(), spec(), ask("1"))
	if !errors.Is(err, host.ErrUnavailable) || !strings.Contains(err.Error(), "someone else's") {
		t.Errorf("ensure: got %v, want ErrUnavailable with the fault", err)
	}
	p.wantRuns(false)
}

// A record that makes no sense leaves the others watched.
func TestAnInvalidSpecLeavesTheOthersWatched(t *testing.T) {
	p := newPost(t)
	other := owner()
	other.UID, other.Slug = "99999999-0000-4000-8000-000000000000", "other"
	folder, err := p.dir.Folder(other.UID)
	if err == nil {
		err = folder.Ensure(other)
	}
	if err == nil {
		_, err = p.enforcer.EnsureWall(t.Context(), specOf(other, "45"), ask("1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	p.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	p.faults.Fail("InspectWalls", hosttest.Before, 1, host.ErrInvalid)
	p.enforcer.Look(t.Context())
	p.wantRuns(false)
}

func TestNeighbours(t *testing.T) {
	p := newPost(t)
	if got := p.enforcer.Neighbours(uid, 2); len(got) != 0 {
		t.Errorf("of a lone Bottle: got %v, want none", got)
	}
	if got := p.enforcer.Neighbours("other", 2); len(got) != 1 || !strings.HasPrefix(got[0].Owner.ID(), "bottle-demo") {
		t.Errorf("of another: got %v, want demo", got)
	}
}

// A wall that has faults and cannot be repaired is reported once, not at every
// look anew.
func TestAFaultThatStaysIsReportedOnce(t *testing.T) {
	p := newPost(t)
	p.walls.RemoveBridge(owner())
	if err := p.walls.DeleteWall(t.Context(), owner()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		p.enforcer.Look(t.Context())
	}
	if len(p.changed) > 2 { // the breach, and the fault
		t.Errorf("notifications of five looks: got %d, want two at most", len(p.changed))
	}
}
