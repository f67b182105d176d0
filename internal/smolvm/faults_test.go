// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/smolvm"
)

// faulty is a world with one created machine. Its smolvm is the stand-in, which
// injects the faults that set chooses.
type faulty struct {
	*world
	name string
	spec host.MachineSpec
}

type faults map[string]any

func newFaulty(t *testing.T, version string, f faults) *faulty {
	t.Helper()
	w := newWorld(t, standin(t, version), func(o *smolvm.Options) {
		o.StartTimeout = time.Minute
		if f["start_hang"] == true {
			o.StartTimeout = 10 * time.Second
		}
	})
	owner := host.Owner{UID: "1a2b3c4d-0000", Namespace: "n", Name: "demo", Slug: "demo", Cluster: "c", Node: "node-1"}
	x := &faulty{world: w, name: owner.ID(), spec: host.MachineSpec{Owner: owner, Smolfile: filepath.Join(w.dir, "Smolfile")}}
	if err := os.WriteFile(x.spec.Smolfile, []byte("env = [\"A=1\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.set(t, f)
	t.Cleanup(func() {
		x.set(t, nil)
		// The test's own context has ended.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.driver.DeleteMachine(ctx, x.name); err != nil {
			t.Errorf("delete: got %v, want nil", err)
		}
		if left := x.left(t, x.name); len(left) > 0 {
			t.Errorf("left: got %q, want nothing", left)
		}
	})
	if err := w.driver.CreateMachine(t.Context(), x.spec); err != nil {
		t.Fatalf("create: %v", err)
	}
	return x
}

// set replaces the injected faults; nil means none.
func (x *faulty) set(t *testing.T, f faults) {
	t.Helper()
	dir := filepath.Join(x.home, ".standin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if f == nil {
		f = faults{}
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "faults.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (x *faulty) find(t *testing.T) host.Machine {
	t.Helper()
	list, err := x.driver.ListMachines(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	i := slices.IndexFunc(list, func(m host.Machine) bool { return m.Name == x.name })
	if i < 0 {
		t.Fatalf("list: got %+v, want it to contain %s", list, x.name)
	}
	return list[i]
}

func (x *faulty) wantNoProcess(t *testing.T, when string) {
	t.Helper()
	for _, left := range x.left(t, x.name) {
		if strings.HasPrefix(left, "process") {
			t.Errorf("%s: got %s, want no process", when, left)
		}
	}
}

func (x *faulty) start(t *testing.T) host.Machine {
	t.Helper()
	if err := x.driver.StartMachine(t.Context(), x.name, ""); err != nil {
		t.Fatalf("start: %v", err)
	}
	m := x.find(t)
	if m.State != host.MachineRunning || m.PID == 0 {
		t.Fatalf("after start: got %+v, want it running", m)
	}
	return m
}

func TestFaultLockedDatabase(t *testing.T) {
	x := newFaulty(t, "1.9.1", faults{"database_locked": 2})
	x.set(t, faults{"database_locked": 2})
	x.start(t)
	x.set(t, faults{"database_locked": 2})
	if err := x.driver.StopMachine(t.Context(), x.name); err != nil {
		t.Errorf("stop: got %v, want nil", err)
	}
	x.set(t, faults{"database_locked": 2})
	if err := x.driver.DeleteMachine(t.Context(), x.name); err != nil {
		t.Errorf("delete: got %v, want nil", err)
	}
}

func TestFaultBoot(t *testing.T) {
	for name, f := range map[string]faults{
		"fails once":        {"boot_failures": 1},
		"no KVM":            {"no_kvm": true},
		"hangs":             {"start_hang": true},
		"killed, VMM stays": {"start_killed_leaves_vmm": true},
	} {
		for _, version := range []string{"0.8.0", "1.32.2"} {
			t.Run(name+" on "+version, func(t *testing.T) {
				t.Parallel()
				x := newFaulty(t, version, f)
				err := x.driver.StartMachine(t.Context(), x.name, "")
				if err == nil || !errors.Is(err, host.ErrBootFailed) && name != "killed, VMM stays" {
					t.Errorf("start: got %v, want ErrBootFailed", err)
				}
				x.wantNoProcess(t, "after the failure")
				if m := x.find(t); m.State == host.MachineRunning || m.PID != 0 {
					t.Errorf("after the failure: got %+v, want it down", m)
				}
				x.set(t, nil)
				x.start(t)
			})
		}
	}
}

// A machine can be killed even while its start hangs.
func TestFaultKilledDuringStart(t *testing.T) {
	x := newFaulty(t, "1.32.2", nil)
	x.set(t, faults{"start_hang": true})
	started := make(chan error, 1)
	began := time.Now()
	go func() { started <- x.driver.StartMachine(t.Context(), x.name, "") }()
	for {
		vmms, err := x.driver.VMMs(t.Context(), []string{x.name})
		if err != nil {
			t.Fatal(err)
		}
		if len(vmms) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := x.driver.KillMachine(t.Context(), x.name); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	x.wantNoProcess(t, "after the kill")
	if took := time.Since(began); took > 40*time.Second { // the start times out after a minute
		t.Errorf("killed after %v, want before the start times out", took)
	}
	if err := <-started; err == nil {
		t.Error("start: got nil, want an error")
	}
	x.set(t, nil)
	x.start(t)
}

func TestFaultUnreachable(t *testing.T) {
	x := newFaulty(t, "1.32.2", nil)
	was := x.start(t)
	x.set(t, faults{"unreachable": []string{x.name}})
	time.Sleep(300 * time.Millisecond)
	if m := x.find(t); m.State != host.MachineUnreachable || m.PID != 0 {
		t.Errorf("got %+v, want it unreachable, without a PID", m)
	}
	if err := x.driver.StartMachine(t.Context(), x.name, ""); err == nil {
		t.Error("start: got nil, want an error: smolvm would kill it")
	}
	_, err := x.driver.Exec(t.Context(), x.name, host.ExecRequest{Command: []string{"true"}})
	if !errors.Is(err, host.ErrNotRunning) {
		t.Errorf("exec: got %v, want ErrNotRunning", err)
	}
	x.set(t, nil)
	if now := x.find(t); now.PID != was.PID && now.State != host.MachineUnreachable {
		t.Errorf("afterwards: got %+v, want the same process", now)
	}
	x.set(t, faults{"unreachable": []string{x.name}})
	if err := x.driver.StopMachine(t.Context(), x.name); err != nil {
		t.Errorf("stop: got %v, want nil", err)
	}
	x.wantNoProcess(t, "after the stop")
}

func TestFaultStopStuck(t *testing.T) {
	for _, version := range []string{"0.8.0", "1.32.2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			x := newFaulty(t, version, nil)
			x.start(t)
			x.set(t, faults{"stop_stuck": []string{x.name}})
			if err := x.driver.StopMachine(t.Context(), x.name); err != nil {
				t.Errorf("stop: got %v, want nil", err)
			}
			x.wantNoProcess(t, "after the stop")
			if m := x.find(t); m.State == host.MachineRunning {
				t.Errorf("after the stop: got %+v, want it down", m)
			}
		})
	}
}

func TestFaultOddOutput(t *testing.T) {
	x := newFaulty(t, "1.32.2", faults{"json_extra_keys": true, "stderr_noise": true, "image_seed_machine": true})
	x.start(t)
	code, err := x.driver.Exec(t.Context(), x.name, host.ExecRequest{Command: []string{"sh", "-c", "exit 3"}})
	if err != nil || code != 3 {
		t.Errorf("exec: got %d, %v, want 3", code, err)
	}
	list, err := x.driver.ListMachines(t.Context())
	if err != nil || len(list) != 2 {
		t.Errorf("list: got %+v, %v, want the machine and smolvm's hidden one", list, err)
	}
	x.set(t, faults{"unknown_state": []string{x.name}})
	if m := x.find(t); m.State != host.MachineUnknown || m.PID != 0 {
		t.Errorf("got %+v, want state unknown", m)
	}
}

// One slow ls serves all concurrent callers of the node's view.
func TestFaultSlowList(t *testing.T) {
	x := newFaulty(t, "1.32.2", faults{"slow_ls_ms": 1000})
	if err := os.WriteFile(filepath.Join(x.home, ".standin/log-calls"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	view := machineview.New(x.driver, clock.RealClock{}, time.Minute, func(string) {})
	began := time.Now()
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if _, _, err := view.Get(t.Context(), x.name); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	b, err := os.ReadFile(filepath.Join(x.home, ".standin/calls.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), `"ls"`); n != 1 || time.Since(began) > 20*time.Second {
		t.Errorf("50 callers: got %d calls of ls in %v, want one:\n%s", n, time.Since(began), b)
	}
}
