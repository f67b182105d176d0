// SPDX-License-Identifier: Apache-2.0

package machineview

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	testclock "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

type world struct {
	*View
	t        *testing.T
	machines *hosttest.Machines
	faults   *hosttest.Faults
	clock    *testclock.FakeClock
	changed  []string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, faults: &hosttest.Faults{}, clock: testclock.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
	w.machines = hosttest.NewMachines(w.faults)
	w.View = New(w.machines, w.clock, 5*time.Second, func(name string) { w.changed = append(w.changed, name) })
	return w
}

func (w *world) lists() int {
	return len(slices.DeleteFunc(w.faults.Calls(), func(c string) bool { return c != "ListMachines" }))
}

func (w *world) get(name string) {
	w.t.Helper()
	if _, _, err := w.Get(context.Background(), name); err != nil {
		w.t.Errorf("get %s: got %v, want nil", name, err)
	}
}

func TestGetListsOnlyWhenItMust(t *testing.T) {
	w := newWorld(t)
	w.machines.Add(host.Machine{Name: "bottle-a", State: host.MachineRunning, PID: 1})
	for _, step := range []struct {
		what      string
		do        func()
		wantLists int
	}{
		{"the first Get", func() { w.get("bottle-a") }, 1},
		{"a second Get", func() { w.get("bottle-a") }, 1},
		{"another machine", func() { w.get("bottle-b") }, 1},
		{"after a change to it", func() { w.Invalidate("bottle-a"); w.get("bottle-a") }, 2},
		{"after a change to another", func() { w.Invalidate("bottle-b"); w.get("bottle-a") }, 2},
		{"the other one", func() { w.get("bottle-b") }, 3},
		{"when the polls stopped", func() { w.clock.Step(11 * time.Second); w.get("bottle-a") }, 4},
	} {
		step.do()
		if got := w.lists(); got != step.wantLists {
			t.Errorf("%s: got %d lists, want %d", step.what, got, step.wantLists)
		}
	}
}

func TestAFailedListIsNotKept(t *testing.T) {
	w := newWorld(t)
	w.machines.Add(host.Machine{Name: "bottle-a", State: host.MachineRunning, PID: 1})
	w.get("bottle-a")
	w.Invalidate("bottle-a")
	w.faults.Fail("ListMachines", hosttest.Before, 1, host.ErrUnavailable)
	if _, _, err := w.Get(t.Context(), "bottle-a"); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, host.ErrUnavailable)
	}
	if _, present, err := w.Get(t.Context(), "bottle-a"); err != nil || !present {
		t.Errorf("then: got %v %v, want the machine", present, err)
	}
}

// slow returns its list only after release is closed.
type slow struct {
	Lister
	release chan struct{}
}

func (s *slow) ListMachines(ctx context.Context) ([]host.Machine, error) {
	machines, err := s.Lister.ListMachines(ctx)
	<-s.release
	return machines, err
}

func TestConcurrentGetsShareAList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &slow{w.machines, make(chan struct{})}
		w.View.machines = s
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { w.get("bottle-a") })
		}
		synctest.Wait()
		close(s.release)
		all.Wait()
		if got := w.lists(); got != 1 {
			t.Errorf("lists: got %d, want 1", got)
		}
	})
}

// A list that started before a change must not answer a Get after it.
func TestAListFromBeforeAChangeIsNotUsedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &slow{w.machines, make(chan struct{})}
		w.View.machines = s
		go w.get("bottle-a")
		synctest.Wait()
		w.machines.Add(host.Machine{Name: "bottle-a", State: host.MachineRunning, PID: 1})
		w.Invalidate("bottle-a")
		found := make(chan bool, 1)
		go func() {
			_, present, _ := w.Get(context.Background(), "bottle-a")
			found <- present
		}()
		synctest.Wait()
		close(s.release)
		if !<-found || w.lists() != 2 {
			t.Errorf("got %d lists, want the machine from the second", w.lists())
		}
	})
}

func TestGetWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := &slow{w.machines, make(chan struct{})}
		w.View.machines = s
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := w.Get(ctx, "bottle-a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		close(s.release)
		w.get("bottle-a")
		if got := w.lists(); got != 1 {
			t.Errorf("lists: got %d, want 1: the first also serves the later Get", got)
		}
	})
}

func TestPollReportsChanges(t *testing.T) {
	w := newWorld(t)
	poll := func(want ...string) {
		t.Helper()
		w.changed = nil
		if err := w.Poll(t.Context()); err != nil {
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
	// A Get saw the change first: the poll still reports it.
	w.Invalidate("bottle-b")
	w.get("bottle-b")
	poll("bottle-a")
	if err := w.machines.DeleteMachine(t.Context(), "bottle-b"); err != nil {
		t.Fatal(err)
	}
	poll("bottle-b")
	poll()
}

func TestUnreachablePolls(t *testing.T) {
	w := newWorld(t)
	w.machines.Add(host.Machine{Name: "bottle-a", State: host.MachineRunning, PID: 1})
	for _, step := range []struct {
		state host.MachineState
		want  int
	}{
		{host.MachineRunning, 0}, {host.MachineUnreachable, 1}, {host.MachineUnreachable, 2}, {host.MachineRunning, 0}, {host.MachineUnreachable, 1},
	} {
		w.machines.SetState("bottle-a", step.state)
		if err := w.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The Gets of passes do not count.
		w.Invalidate("bottle-a")
		w.get("bottle-a")
		if got := w.UnreachablePolls("bottle-a"); got != step.want {
			t.Errorf("polls: got %d, want %d", got, step.want)
		}
	}
	if err := w.machines.DeleteMachine(t.Context(), "bottle-a"); err != nil {
		t.Fatal(err)
	}
	if err := w.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.UnreachablePolls("bottle-a"); got != 0 {
		t.Errorf("polls of a machine that is gone: got %d, want 0", got)
	}
}
