// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/stalled"
)

// hangs is how long a call may take before a test says that it hangs.
const hangs = 30 * time.Second

// soon runs do, and ends the test if it hangs.
func soon(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(hangs):
		t.Fatalf("%s hangs", what)
	}
}

func (f *fixture) fileOf(name string) string {
	f.t.Helper()
	folder, err := f.dir.Folder(uid)
	if err != nil {
		f.t.Fatal(err)
	}
	return filepath.Join(folder.Path(), name)
}

// TestNeitherTheGuardNorPortsWaitForTheDisk checks that the guard kills and repairs, and that
// ports are closed, while a pass waits for the disk, and that this pass then opens nothing.
func TestNeitherTheGuardNorPortsWaitForTheDisk(t *testing.T) {
	f := newFixture(t)
	wide := spec()
	wide.Ports = []int32{8888, 9100}
	if _, err := f.enforcer.EnsureWall(t.Context(), wide, requestFor("1")); err != nil {
		t.Fatal(err)
	}
	disk := stalled.Make(t, f.fileOf("wall.json"))
	passed := make(chan error, 1)
	go func() {
		_, err := f.enforcer.EnsureWall(t.Context(), wide, requestFor("2"))
		passed <- err
	}()
	disk.Await()

	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	soon(t, "the guard", func() { f.enforcer.Scan(t.Context()) })
	f.wantRuns(false)
	f.wantNoFaults(wide, wide.Ports)
	narrowed := make(chan error, 1)
	go func() { narrowed <- f.narrow(2, []int32{8888}) }()
	soon(t, "the narrowing of ports", func() {
		for !slices.Equal(f.portsInForce(), []int32{8888}) {
			time.Sleep(time.Millisecond)
		}
	})

	disk.End()
	if err := <-passed; !errors.Is(err, enforce.ErrSuperseded) {
		t.Errorf("the pass: got %v, want ErrSuperseded", err)
	}
	if err := <-narrowed; err != nil {
		t.Errorf("the narrowing: got %v, want nil", err)
	}
	f.restart()
	f.enforcer.Scan(t.Context()) // the next agent makes the wall as recorded
	if got := f.portsInForce(); !slices.Equal(got, []int32{8888}) {
		t.Errorf("ports after another agent: got %v, want 8888 alone", got)
	}
}

// TestAnotherBottlesFolderDelaysNoScan checks that the guard does not wait while the folder of
// a Bottle that is new to the agent is read.
func TestAnotherBottlesFolderDelaysNoScan(t *testing.T) {
	f := newFixture(t)
	other := owner()
	other.UID, other.Slug = "55555555-0000-4000-8000-000000000000", "other"
	folder, err := f.dir.Folder(other.UID)
	if err == nil {
		err = folder.Ensure(other)
	}
	if err != nil {
		t.Fatal(err)
	}
	disk := stalled.Make(t, filepath.Join(folder.Path(), "leak.json"))
	passed := make(chan error, 1)
	go func() {
		_, err := f.enforcer.EnsureWall(t.Context(), specOf(other, "45"), requestFor("1"))
		passed <- err
	}()
	disk.Await()
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	soon(t, "the guard", func() { f.enforcer.Scan(t.Context()) })
	f.wantRuns(false)
	disk.End()
	if err := <-passed; err != nil {
		t.Errorf("the pass: got %v, want nil", err)
	}
}

// TestTheGuardsOwnWritesDelayNoScan checks that the guard kills again while it cannot write
// down the leak for which it killed before.
func TestTheGuardsOwnWritesDelayNoScan(t *testing.T) {
	f := newFixture(t)
	disk := stalled.Make(t, f.fileOf("leak.json"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.enforcer.Start(ctx) }()
	f.enforcer.FoundLeak(uid, "tcp to everywhere")
	disk.Await()
	_, w, _ := f.walls.Get(owner())
	f.start(w.Path) // by somebody, in spite of the leak
	soon(t, "the guard", func() {
		for f.runs() {
			f.clock.Step(time.Second)
			time.Sleep(time.Millisecond)
		}
	})
	cancel()
	disk.End()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

// stuckMachines are machines of which one cannot be killed.
type stuckMachines struct {
	enforce.Machines
	name    string
	killing chan struct{} // closed when it is to be killed
	release chan struct{}
}

func (m stuckMachines) KillMachine(ctx context.Context, name string) error {
	if name == m.name {
		close(m.killing)
		<-m.release
	}
	return m.Machines.KillMachine(ctx, name)
}

// TestAKillThatHangsDelaysNoOtherMachine checks that a scan does not wait for a machine that
// does not end.
func TestAKillThatHangsDelaysNoOtherMachine(t *testing.T) {
	f := newFixture(t)
	other := owner()
	other.UID, other.Slug = "55555555-0000-4000-8000-000000000000", "other"
	machines := stuckMachines{f.machines, other.ID(), make(chan struct{}), make(chan struct{})}
	f.change = func(o *enforce.Options) { o.Machines = machines }
	f.restart()
	folder, err := f.dir.Folder(other.UID)
	if err == nil {
		err = folder.Ensure(other)
	}
	if err != nil {
		t.Fatal(err)
	}
	w, err := f.enforcer.EnsureWall(t.Context(), specOf(other, "45"), requestFor("1"))
	if err != nil {
		t.Fatal(err)
	}
	f.machines.Add(host.Machine{Name: other.ID(), UID: other.UID, State: host.MachineCreated})
	if err := f.machines.StartMachine(t.Context(), other.ID(), w.Path); err != nil {
		t.Fatal(err)
	}
	f.machines.MoveVMM(other.ID(), host.NetNS{Dev: 1, Inode: 1})

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.enforcer.Start(ctx) }()
	soon(t, "the first kill", func() { <-machines.killing })
	f.walls.Break(owner(), host.WallFault{What: "open", Open: true})
	soon(t, "the guard", func() {
		for f.runs() {
			f.clock.Step(time.Second)
			time.Sleep(time.Millisecond)
		}
	})
	close(machines.release)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
