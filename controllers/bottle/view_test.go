// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"
	testclock "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

type viewWorld struct {
	*machineView
	machines *hosttest.Machines
	faults   *hosttest.Faults
	clock    *testclock.FakeClock
	changed  []string
}

func newViewWorld() *viewWorld {
	w := &viewWorld{faults: &hosttest.Faults{}, clock: testclock.NewFakeClock(epoch)}
	w.machines = hosttest.NewMachines(w.faults)
	w.machineView = newMachineView(w.machines, w.clock, 5*time.Second, func(name string) { w.changed = append(w.changed, name) })
	return w
}

func (w *viewWorld) lists() int {
	return len(slices.DeleteFunc(w.faults.Calls(), func(c string) bool { return c != "ListMachines" }))
}

func TestViewListsOnlyWhenItMust(t *testing.T) {
	w := newViewWorld()
	w.machines.Add(host.Machine{Name: "bottle-a", State: host.MachineRunning, PID: 1})
	get := func(name string) bool {
		t.Helper()
		_, ok, err := w.get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for _, step := range []struct {
		what      string
		do        func()
		wantLists int
	}{
		{"the first look", func() { get("bottle-a") }, 1},
		{"a second look", func() { get("bottle-a") }, 1},
		{"another machine", func() { get("bottle-b") }, 1},
		{"after a write to it", func() { w.touch("bottle-a"); get("bottle-a") }, 2},
		{"after a write to another", func() { w.touch("bottle-b"); get("bottle-a") }, 2},
		{"that other", func() { get("bottle-b") }, 3},
		{"when the polls stopped", func() { w.clock.Step(11 * time.Second); get("bottle-a") }, 4},
	} {
		step.do()
		if got := w.lists(); got != step.wantLists {
			t.Errorf("%s: got %d lists, want %d", step.what, got, step.wantLists)
		}
	}
	w.touch("bottle-a")
	w.faults.Fail("ListMachines", hosttest.Before, 1, host.ErrUnavailable)
	if _, _, err := w.get(t.Context(), "bottle-a"); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, host.ErrUnavailable)
	}
}

func TestPassesAtOnceShareAList(t *testing.T) {
	w := newViewWorld()
	slow := &slowList{Machines: w.machines, release: make(chan struct{})}
	w.machineView.machines = slow
	var all sync.WaitGroup
	var coming atomic.Int32
	for range 20 {
		all.Go(func() {
			coming.Add(1)
			if _, _, err := w.get(context.Background(), "bottle-a"); err != nil {
				t.Error(err)
			}
		})
	}
	gomega.NewWithT(t).Eventually(coming.Load).Should(gomega.BeEquivalentTo(20))
	close(slow.release)
	all.Wait()
	if got := w.lists(); got != 1 {
		t.Errorf("lists: got %d, want 1", got)
	}
}

// slowList lists only once it was released.
type slowList struct {
	host.Machines
	release chan struct{}
}

func (s *slowList) ListMachines(ctx context.Context) ([]host.Machine, error) {
	<-s.release
	return s.Machines.ListMachines(ctx)
}

func TestPollTellsOfWhatChanged(t *testing.T) {
	w := newViewWorld()
	poll := func(want ...string) {
		t.Helper()
		w.changed = nil
		if err := w.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		slices.Sort(w.changed)
		if d := cmp.Diff(want, w.changed); d != "" {
			t.Errorf("changed (-want +got):\n%s", d)
		}
	}
	w.machines.Add(host.Machine{Name: "bottle-a", State: host.MachineRunning, PID: 1})
	w.machines.Add(host.Machine{Name: "bottle-b", State: host.MachineRunning, PID: 2})
	poll("bottle-a", "bottle-b")
	poll()
	w.machines.Kill("bottle-a")
	// A pass of another Bottle saw it first: the poll still tells.
	w.touch("bottle-b")
	if _, _, err := w.get(t.Context(), "bottle-b"); err != nil {
		t.Fatal(err)
	}
	poll("bottle-a")
	if err := w.machines.DeleteMachine(t.Context(), "bottle-b"); err != nil {
		t.Fatal(err)
	}
	poll("bottle-b")
	poll()
}

func TestUnreachableReadings(t *testing.T) {
	w := newViewWorld()
	w.machines.Add(host.Machine{Name: "bottle-a", State: host.MachineRunning, PID: 1})
	for _, step := range []struct {
		state host.MachineState
		want  int
	}{
		{host.MachineRunning, 0}, {host.MachineUnreachable, 1}, {host.MachineUnreachable, 2}, {host.MachineRunning, 0}, {host.MachineUnreachable, 1},
	} {
		w.machines.SetState("bottle-a", step.state)
		if err := w.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Looks of passes do not count.
		w.touch("bottle-a")
		if _, _, err := w.get(t.Context(), "bottle-a"); err != nil {
			t.Fatal(err)
		}
		if got := w.readings("bottle-a"); got != step.want {
			t.Errorf("readings: got %d, want %d", got, step.want)
		}
	}
}

func TestJobs(t *testing.T) {
	s := newJobs[error](1)
	release := make(chan struct{})
	var atOnce, most int
	var mu sync.Mutex
	boot := func(ctx context.Context) error {
		mu.Lock()
		atOnce++
		most = max(most, atOnce)
		mu.Unlock()
		defer func() { mu.Lock(); atOnce--; mu.Unlock() }()
		select {
		case <-release:
			return errors.New("booted badly")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ended := make(chan string, 4)
	for _, uid := range []string{"a", "b", "a"} {
		s.begin(uid, boot, func() { ended <- uid })
	}
	if got := s.begun(); got != 2 {
		t.Errorf("starts: got %d, want 2: one per Bottle", got)
	}
	if err := s.callOff(t.Context(), "b", "start"); err != nil {
		t.Fatal(err)
	}
	if s.underWay("b") || !s.underWay("a") {
		t.Errorf("under way: got a %v, b %v, want a alone", s.underWay("a"), s.underWay("b"))
	}
	if _, ok := s.take("b"); ok {
		t.Errorf("result of what was called off: got one, want none")
	}
	close(release)
	s.wait()
	if err, ok := s.take("a"); !ok || err == nil {
		t.Errorf("result: got %v %v, want the boot's error", err, ok)
	}
	if _, ok := s.take("a"); ok {
		t.Errorf("result taken twice: got one, want none")
	}
	if most != 1 || len(ended) != 2 {
		t.Errorf("at once %d, ended %d, want 1 and 2", most, len(ended))
	}
	if err := s.callOff(t.Context(), "nobody", "start"); err != nil {
		t.Errorf("calling off nothing: got %v, want nil", err)
	}
}
