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

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/state"
)

const uid = "1a2b3c4d-0000-4000-8000-000000000000"

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fixture is a node with a machine behind its wall, and a guard.
type fixture struct {
	t        *testing.T
	faults   *hosttest.Faults
	walls    *hosttest.Walls
	machines *hosttest.Machines
	clock    *testclock.FakeClock
	stateDir string
	interval time.Duration
	change   func(*enforce.Options) // nil for none
	dir      *state.Dir
	enforcer *enforce.Enforcer

	metrics *prometheus.Registry // of proofs; nil for none
	respond func(probe.Target) probe.Outcome
	during  func(probe.Plan) // if set, runs in the guest during a proof
	proofs  int

	mu      sync.Mutex
	changed []string
	guarded []int // by each successful scan
	limits  egress.Limits
	publish func(uid string, rules []byte) error
	pods    enforce.Pods // nil: all bundles are in docker's containers
}

// requestFor returns the request of a Bottle whose prove annotation has this
// value.
func requestFor(prove string) enforce.Request { return enforce.Request{Generation: 1, Prove: prove} }

func owner() host.Owner {
	return host.Owner{UID: uid, Namespace: "default", Name: "demo", Slug: "demo", Cluster: "c", Node: "n"}
}

func spec() host.WallSpec { return specOf(owner(), "44") }

func specOf(o host.Owner, third string) host.WallSpec {
	net := "192.168." + third + "."
	return host.WallSpec{Owner: o, Subnet: netip.MustParsePrefix(net + "0/24"), BundleIP: netip.MustParseAddr(net + "2"),
		MachineIP: netip.MustParseAddr(net + "3"), Ports: []int32{8888}}
}

// newFixture returns a machine that runs behind its wall, and its guard.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, faults: &hosttest.Faults{}, clock: testclock.NewFakeClock(epoch), stateDir: t.TempDir(), interval: time.Second}
	f.walls = hosttest.NewWalls(f.faults)
	f.machines = hosttest.NewMachines(f.faults)
	f.machines.ResolveNetNS(func(path string) host.NetNS {
		if _, w, ok := f.walls.Get(owner()); ok && w.Path == path {
			return w.NetNS
		}
		return host.NetNS{Dev: 4, Inode: 1} // the node's own
	})
	f.restart()
	folder, err := f.dir.Folder(uid)
	if err == nil {
		err = folder.Ensure(owner())
	}
	if err != nil {
		t.Fatal(err)
	}
	w := f.ensure("1")
	f.machines.Add(host.Machine{Name: owner().ID(), UID: uid, State: host.MachineCreated})
	f.start(w.Path)
	return f
}

// restart starts another agent's guard over the same node and state.
func (f *fixture) restart() {
	f.t.Helper()
	var err error
	if f.dir, err = state.Open(f.stateDir); err != nil {
		f.t.Fatal(err)
	}
	var metrics *enforce.Metrics
	if f.metrics != nil {
		if metrics, err = enforce.NewMetrics(f.metrics); err != nil {
			f.t.Fatal(err)
		}
	}
	o := enforce.Options{Metrics: metrics, Walls: f.walls, Machines: f.machines, Canaries: &hosttest.Canaries{}, State: f.dir,
		Clock: f.clock, Log: logr.Discard(), Interval: f.interval, GuestProgram: "doc.go", MaxConcurrentProofs: 2, Limits: f.presentLimits, Pods: f.pods, Publish: f.publish,
		Guarded: func(machines int) { f.mu.Lock(); defer f.mu.Unlock(); f.guarded = append(f.guarded, machines) }}
	if f.change != nil {
		f.change(&o)
	}
	if f.enforcer, err = enforce.New(o); err != nil {
		f.t.Fatal(err)
	}
	f.enforcer.Subscribe(func(uid string) { f.mu.Lock(); defer f.mu.Unlock(); f.changed = append(f.changed, uid) })
}

func (f *fixture) presentLimits() egress.Limits { f.mu.Lock(); defer f.mu.Unlock(); return f.limits }

func (f *fixture) expect(nonce string) {
	f.t.Helper()
	if err := f.enforcer.Expect(uid, nonce, "1.32.2", "virtio-net"); err != nil {
		f.t.Fatal(err)
	}
}

// hit reports a hit on a canary and waits until it has been acted on.
func (f *fixture) hit(t host.CanaryHit) {
	f.enforcer.RecordHit(t)
	f.enforcer.Settle()
}

// ensure makes the wall as a pass does for a Bottle with this prove annotation.
func (f *fixture) ensure(request string) host.Wall {
	f.t.Helper()
	w, err := f.enforcer.EnsureWall(f.t.Context(), spec(), requestFor(request))
	if err != nil {
		f.t.Fatalf("ensure: %v", err)
	}
	return w
}

func (f *fixture) start(netns string) {
	f.t.Helper()
	if err := f.machines.StartMachine(f.t.Context(), owner().ID(), netns); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) runs() bool {
	vmms, err := f.machines.VMMs(f.t.Context(), []string{owner().ID()})
	if err != nil {
		f.t.Fatal(err)
	}
	return len(vmms) > 0
}

func (f *fixture) wantRuns(want bool) {
	f.t.Helper()
	if got := f.runs(); got != want {
		f.t.Errorf("machine runs: got %v, want %v", got, want)
	}
}

func (f *fixture) wantFaults(want int) {
	f.t.Helper()
	walls, err := f.walls.InspectWalls(f.t.Context(), []host.WallSpec{spec()})
	if err != nil || len(walls[0].Faults) != want {
		f.t.Errorf("faults of the wall: got %+v, %v, want %d", walls, err, want)
	}
}

func TestBreachesAreMadeSafe(t *testing.T) {
	tests := map[string]struct {
		change func(f *fixture)
		runs   bool
		breach string // "" for none
	}{
		"all is well": {func(*fixture) {}, true, ""},
		"an open wall": {func(f *fixture) { f.walls.Break(owner(), host.WallFault{What: "the chain is gone", Open: true}) },
			false, "the wall was open: the chain is gone"},
		"a broken wall that is closed": {func(f *fixture) { f.walls.Break(owner(), host.WallFault{What: "the link is gone"}) }, true, ""},
		"an open one behind a closed one": {func(f *fixture) {
			f.walls.Break(owner(), host.WallFault{What: "the loopback is up"})
			f.walls.Break(owner(), host.WallFault{What: "the chain is gone", Open: true})
		}, false, "the wall was open: the chain is gone"},
		"a machine elsewhere": {func(f *fixture) { f.machines.MoveVMM(owner().ID(), host.NetNS{Dev: 1, Inode: 1}) },
			false, "the machine ran outside its wall's network namespace"},
		"a second VMM elsewhere": {func(f *fixture) { f.machines.AddVMM(owner().ID(), host.NetNS{Dev: 1, Inode: 1}) },
			false, "the machine ran outside its wall's network namespace"},
		"no wall at all": {func(f *fixture) {
			if err := f.walls.DeleteWall(f.t.Context(), owner()); err != nil {
				f.t.Fatal(err)
			}
		}, false, "the machine ran outside its wall's network namespace"},
	}
	for name, tt := range tests {
		for _, way := range []string{"by a scan", "by a pass", "by another agent"} {
			t.Run(name+" "+way, func(t *testing.T) {
				f := newFixture(t)
				tt.change(f)
				switch way {
				case "by a scan":
					f.enforcer.Scan(t.Context())
				case "by a pass":
					f.ensure("1")
				default:
					f.restart()
					f.enforcer.Scan(t.Context())
				}
				f.wantRuns(tt.runs)
				f.wantFaults(0)
				b := f.enforcer.TakeBreach(uid)
				if got := b != nil; got != (tt.breach != "") || got && (b.What != tt.breach || !b.Time.Equal(epoch)) {
					t.Errorf("breach: got %+v, want %q", b, tt.breach)
				}
				if notified := slices.Contains(f.changed, uid); notified != (name != "all is well") {
					t.Errorf("notified: got %v, want %v", notified, !notified)
				}
				if again := f.enforcer.TakeBreach(uid); again != nil {
					t.Errorf("breach taken twice: got %+v, want none", again)
				}
			})
		}
	}
}

// The guard kills the machine before it repairs the wall, so that nothing leaks
// in between.
func TestTheMachineIsKilledBeforeTheRepair(t *testing.T) {
	f := newFixture(t)
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	f.faults.ResetCalls()
	f.enforcer.Scan(t.Context())
	calls := f.faults.Calls()
	killed, repaired := slices.Index(calls, "KillMachine "+owner().ID()), slices.Index(calls, "EnsureWall "+owner().ID())
	if killed < 0 || repaired < 0 || killed > repaired {
		t.Errorf("calls: got %q, want the kill before the repair", calls)
	}
}

func TestAFailedKillIsRetried(t *testing.T) {
	f := newFixture(t)
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	f.faults.Fail("KillMachine", hosttest.Before, 1, errors.New("not yet"))
	f.enforcer.Scan(t.Context())
	f.wantRuns(true)
	f.wantFaults(0) // the wall is repaired all the same
	if !slices.Contains(f.changed, uid) || f.enforcer.State(uid).Breach == nil {
		t.Errorf("notified %v, breach %+v, want a notification and a breach even though the kill failed", f.changed, f.enforcer.State(uid).Breach)
	}
	f.enforcer.Scan(t.Context())
	f.wantRuns(false)
}

// A wall that cannot be read does not save a machine that must be down.
func TestAFailedKillIsRetriedBehindAnUnreadableWall(t *testing.T) {
	for what, doom := range map[string]func(f *fixture){
		"a breach": func(f *fixture) { f.walls.Break(owner(), host.WallFault{What: "open", Open: true}) },
		"a leak": func(f *fixture) {
			f.enforcer.RecordHit(host.CanaryHit{Proto: "tcp", Interface: owner().Bridge(), Remote: netip.MustParseAddrPort("192.168.44.3:1")})
			f.enforcer.WaitProofs()
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			f.faults.Fail("KillMachine", hosttest.Before, 1, errors.New("not yet"))
			doom(f)
			if what == "a breach" {
				f.enforcer.Scan(t.Context())
			}
			f.wantRuns(true)
			f.walls.Unreadable(owner(), errors.New("the container runtime does not answer"))
			f.enforcer.Scan(t.Context())
			f.wantRuns(false)
		})
	}
}

// An agent that cannot read a wall, for example because it has no descriptors
// left, knows nothing about it. It kills nothing, and notifies.
func TestAnUnreadableWallStopsNothing(t *testing.T) {
	f := newFixture(t)
	f.walls.Unreadable(owner(), errors.New("too many open files"))
	f.enforcer.Scan(t.Context())
	f.wantRuns(true)
	if !slices.Contains(f.changed, uid) {
		t.Error("notified: got nothing, want the Bottle")
	}
	if _, err := f.enforcer.EnsureWall(t.Context(), spec(), requestFor("1")); err == nil {
		t.Error("ensure: got no error, want one: the wall cannot be read")
	}
	f.changed = nil
	f.walls.Unreadable(owner(), nil)
	f.enforcer.Scan(t.Context())
	if !slices.Contains(f.changed, uid) {
		t.Error("notified when it can be read again: got nothing, want the Bottle")
	}
}

// Another release writes other rules. A filter that is unchanged since it was
// last read is not a breach, and is replaced while the machine runs.
func TestAnEarlierReleasesFilterIsNoBreach(t *testing.T) {
	other := host.WallFault{What: "the filter has other rules", Open: true, Rules: true}
	f := newFixture(t)
	f.walls.Break(owner(), other)
	f.restart()
	f.enforcer.Scan(t.Context())
	f.wantRuns(true)
	f.wantFaults(0)
	folder, err := f.dir.Folder(uid)
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
	f.walls.Break(owner(), other)
	f.restart()
	f.enforcer.Scan(t.Context())
	f.wantRuns(false)
}

// A leak is reported once before it can be released, even if the user changed
// the Bottle before that.
func TestALeakIsReportedBeforeItIsReleased(t *testing.T) {
	f := newFixture(t)
	f.expect("abc123")
	f.hit(host.CanaryHit{Proto: "udp", Nonce: "abc123"})
	f.ensure("2") // the user changed something just now
	if f.enforcer.State(uid).Leak == nil {
		t.Fatal("leak: got it released, want it reported first")
	}
	if got := f.enforcer.Leak(uid, requestFor("2")); got == nil || got.ReportedFor != requestFor("2").String() {
		t.Errorf("reported: got %+v, want it for request 2", got)
	}
	if got := f.enforcer.Leak(uid, requestFor("3")); got != nil {
		t.Errorf("for another request: got %+v, want none", got)
	}
	f.ensure("3")
	if got := f.enforcer.State(uid).Leak; got != nil {
		t.Errorf("leak: got %+v, want it released", got)
	}
}

// A leak counts even if other files on the disk are broken, and it is written as
// soon as that is possible.
func TestEvidenceIsHardToLose(t *testing.T) {
	f := newFixture(t)
	folder, err := f.dir.Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	away := folder.Path() + ".away"
	if err := os.Rename(folder.Path(), away); err != nil {
		t.Fatal(err)
	}
	f.enforcer.FoundLeak(uid, "tcp to everywhere")
	f.enforcer.Settle()
	if err := os.Rename(away, folder.Path()); err != nil {
		t.Fatal(err)
	}
	f.enforcer.Scan(t.Context())
	if err := os.WriteFile(folder.Path()+"/wall.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if got := f.enforcer.Leak(uid, requestFor("1")); got == nil || got.Path != "tcp to everywhere" {
		t.Errorf("leak for another agent: got %+v, want the evidence", got)
	}
}

func TestAFailedScanStopsNothing(t *testing.T) {
	for _, call := range []string{"InspectWalls", "VMMs"} {
		t.Run(call, func(t *testing.T) {
			f := newFixture(t)
			f.faults.Fail(call, hosttest.Before, 1, errors.New("interrupted"))
			f.enforcer.Scan(t.Context())
			f.wantRuns(true)
			if got := f.enforcer.TakeBreach(uid); got != nil {
				t.Errorf("breach: got %+v, want none: the scan found out nothing", got)
			}
		})
	}
}

// What reports that the machines are guarded must not do so while scans fail.
func TestGuardedIsReported(t *testing.T) {
	f := newFixture(t)
	want := func(when string, want ...int) {
		t.Helper()
		f.mu.Lock()
		defer f.mu.Unlock()
		if !slices.Equal(f.guarded, want) {
			t.Errorf("%s: got %v machines guarded, want %v", when, f.guarded, want)
		}
		f.guarded = nil
	}
	want("before the first scan")
	f.enforcer.Scan(t.Context())
	f.enforcer.Scan(t.Context())
	want("a machine", 1, 1)
	for _, call := range []string{"InspectWalls", "VMMs"} {
		f.faults.Fail(call, hosttest.Before, 1, host.ErrUnavailable)
		f.enforcer.Scan(t.Context())
		want(call + " fails")
	}
	if err := f.machines.DeleteMachine(t.Context(), owner().ID()); err != nil {
		t.Fatal(err)
	}
	if err := f.enforcer.Release(t.Context(), owner()); err != nil {
		t.Fatal(err)
	}
	f.enforcer.Scan(t.Context())
	want("no machine", 0)
}

func TestReleasedWallsAreNotGuarded(t *testing.T) {
	f := newFixture(t)
	if err := f.enforcer.Release(t.Context(), owner()); err != nil {
		t.Fatal(err)
	}
	f.faults.ResetCalls()
	f.enforcer.Scan(t.Context())
	if calls := f.faults.Calls(); len(calls) > 0 {
		t.Errorf("calls after the release: got %q, want none", calls)
	}
	f.restart()
	if got := f.enforcer.State(uid); got.Watched {
		t.Errorf("another agent: got %+v, want nothing to guard", got)
	}
}

func TestALeakLastsUntilTheRequestChanges(t *testing.T) {
	f := newFixture(t)
	f.expect("abc123")
	f.hit(host.CanaryHit{Proto: "udp", Nonce: "abc123", Local: netip.MustParseAddrPort("10.1.1.1:4711"), Remote: netip.MustParseAddrPort("192.168.44.3:9")})
	f.wantRuns(false)
	if notified := f.enforcer.Leak(uid, requestFor("1")); notified == nil {
		t.Fatal("reported: got no leak, want it to count")
	}
	want := state.Leak{Time: epoch, Path: "udp to 10.1.1.1:4711, a canary of the node", Smolvm: "1.32.2", Backend: "virtio-net", ReportedFor: requestFor("1").String()}
	if leak := f.enforcer.State(uid).Leak; leak == nil || *leak != want {
		t.Fatalf("evidence: got %+v, want %+v", leak, want)
	}

	// Someone starts it anyway, with this agent and with the next one.
	path := f.enforcer.State(uid).Wall.Path
	f.start(path)
	f.enforcer.Scan(t.Context())
	f.wantRuns(false)
	f.restart()
	if leak := f.enforcer.State(uid).Leak; leak == nil || *leak != want {
		t.Errorf("evidence after another agent: got %+v, want %+v", leak, want)
	}
	f.start(path)
	f.enforcer.Scan(t.Context())
	f.wantRuns(false)

	f.ensure("1")
	if f.enforcer.State(uid).Leak == nil {
		t.Error("leak after a pass over the same Bottle: got none, want it to last")
	}
	f.ensure("2")
	if got := f.enforcer.State(uid).Leak; got != nil {
		t.Errorf("leak after the request changed: got %+v, want none", got)
	}
	f.start(path)
	f.enforcer.Scan(t.Context())
	f.wantRuns(true)
	f.restart()
	if got := f.enforcer.State(uid).Leak; got != nil {
		t.Errorf("leak for another agent: got %+v, want it released for good", got)
	}
}

// A leaking machine is killed even if its evidence cannot be written.
func TestTheKillComesBeforeTheEvidence(t *testing.T) {
	f := newFixture(t)
	folder, err := f.dir.Folder(uid)
	if err == nil {
		err = folder.Remove()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.enforcer.FoundLeak(uid, "tcp to everywhere")
	f.enforcer.Settle()
	f.wantRuns(false)
	if f.enforcer.State(uid).Leak == nil {
		t.Error("leak: got none, want it kept in memory at least")
	}
}

func TestDroppedPacketsAddUpAcrossFilters(t *testing.T) {
	f := newFixture(t)
	f.drop(5)
	f.enforcer.Scan(t.Context())
	f.drop(2)
	f.enforcer.Scan(t.Context())
	// The filter is recreated, and counts from 0.
	if err := f.walls.DeleteWall(t.Context(), owner()); err != nil {
		t.Fatal(err)
	}
	f.enforcer.Scan(t.Context())
	f.drop(3)
	f.enforcer.Scan(t.Context())
	if got := f.enforcer.State(uid).Dropped; got != 10 {
		t.Errorf("dropped: got %d, want 10", got)
	}
}

func (f *fixture) drop(packets uint64) {
	f.walls.AddDrop(owner(), host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("192.168.44.1"), Port: 22, Packets: packets})
}

func TestStartScansUntilItsContextEnds(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.enforcer.Start(ctx) }()
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	deadline := time.Now().Add(10 * time.Second)
	for f.runs() && time.Now().Before(deadline) {
		f.clock.Step(time.Second)
		time.Sleep(5 * time.Millisecond)
	}
	f.wantRuns(false)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

// A change to a wall starts a scan immediately, not at the next interval.
func TestStartScansWhenAWallChanges(t *testing.T) {
	f := newFixture(t)
	f.interval = 24 * time.Hour
	f.restart()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.enforcer.Start(ctx) }()
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !is(); {
			if time.Now().After(deadline) {
				t.Fatalf("waited for %s", what)
			}
			f.clock.Step(50 * time.Millisecond)
			time.Sleep(time.Millisecond)
		}
	}
	until("the watch", func() bool { return slices.Contains(f.faults.Calls(), "WatchWalls") })
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	until("the machine to be stopped", func() bool { return !f.runs() })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestABadFileLeavesTheOthersGuarded(t *testing.T) {
	f := newFixture(t)
	bad := owner()
	bad.UID = "55555555-0000-4000-8000-000000000000"
	folder, err := f.dir.Folder(bad.UID)
	if err == nil {
		err = folder.Ensure(bad)
	}
	if err == nil {
		err = os.WriteFile(folder.Path()+"/wall.json", []byte("{"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.restart()
	if !f.enforcer.State(uid).Watched || f.enforcer.State(bad.UID).Watched {
		t.Errorf("watched: got %v and %v, want the good one alone", f.enforcer.State(uid).Watched, f.enforcer.State(bad.UID).Watched)
	}
}

// No machine may start behind a wall that cannot be repaired because something
// that belongs to someone else is in the way.
func TestAWallWithFaultsIsAnError(t *testing.T) {
	f := newFixture(t)
	f.walls.BreakPermanently(owner(), host.WallFault{What: "a chain of someone else's sees packets first", Open: true})
	_, err := f.enforcer.EnsureWall(t.Context(), spec(), requestFor("1"))
	if !errors.Is(err, host.ErrUnavailable) || !strings.Contains(err.Error(), "someone else's") {
		t.Errorf("ensure: got %v, want ErrUnavailable with the fault", err)
	}
	f.wantRuns(false)
}

// An invalid record leaves the others guarded.
func TestAnInvalidSpecLeavesTheOthersGuarded(t *testing.T) {
	f := newFixture(t)
	other := owner()
	other.UID, other.Slug = "99999999-0000-4000-8000-000000000000", "other"
	folder, err := f.dir.Folder(other.UID)
	if err == nil {
		err = folder.Ensure(other)
	}
	if err == nil {
		_, err = f.enforcer.EnsureWall(t.Context(), specOf(other, "45"), requestFor("1"))
	}
	if err != nil {
		t.Fatal(err)
	}
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	f.faults.Fail("InspectWalls", hosttest.Before, 1, host.ErrInvalid)
	f.enforcer.Scan(t.Context())
	f.wantRuns(false)
}

func TestNeighbours(t *testing.T) {
	f := newFixture(t)
	if got := f.enforcer.Neighbours(host.WallSpec{Owner: owner()}, 2); len(got) != 0 {
		t.Errorf("of a lone Bottle: got %v, want none", got)
	}
	other := host.WallSpec{Owner: host.Owner{UID: "other"}}
	got := f.enforcer.Neighbours(other, 2)
	if len(got) != 1 || !strings.HasPrefix(got[0].Owner.ID(), "bottle-demo") {
		t.Fatalf("of another: got %v, want demo", got)
	}
	other.BundleIP = got[0].BundleIP
	if got := f.enforcer.Neighbours(other, 2); len(got) != 1 {
		t.Errorf("of another with the same address in a Pod of its own: got %v, want demo, whose Pod has another address", got)
	}
}

// A wall that has faults and cannot be repaired is reported once, not in every
// scan.
func TestAPersistentFaultIsReportedOnce(t *testing.T) {
	f := newFixture(t)
	f.walls.RemoveBridge(owner())
	if err := f.walls.DeleteWall(t.Context(), owner()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		f.enforcer.Scan(t.Context())
	}
	if len(f.changed) > 2 { // the breach, and the fault
		t.Errorf("notifications of five scans: got %d, want two at most", len(f.changed))
	}
}
