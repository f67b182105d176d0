// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"botbottle.dev/bottle-operator/internal/host"
)

// waitExit waits for a watcher's call.
func waitExit(t *testing.T, exits <-chan string, name string) {
	t.Helper()
	select {
	case got := <-exits:
		if got != name {
			t.Errorf("exit: got %q, want %q", got, name)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("exit: got no call within 30 s")
	}
}

func machineKilled(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	first := m.start(t)
	exits := make(chan string, 1)
	if err := f.Machines.WatchExit(ctx, first, func(name string) { exits <- name }); err != nil {
		t.Fatalf("watch: %v", err)
	}
	f.Kill(t, first)
	waitExit(t, exits, m.name)
	// After the watcher's call, the list must show the end immediately.
	if got, ok := m.find(t); !ok || got.State == host.MachineRunning || got.PID != 0 {
		t.Errorf("killed: got %+v, want it listed, down and without a process", got)
	}
	_, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: []string{"true"}})
	wantKind(t, "exec in a killed machine", err, host.ErrNotRunning)
	if err := f.Machines.WatchExit(ctx, first, func(name string) { exits <- name }); err != nil {
		t.Fatalf("watch a VMM that has ended: %v", err)
	}
	waitExit(t, exits, m.name)
	if second := m.start(t); second.PID == first.PID && second.StartTime.Equal(first.StartTime) {
		t.Error("started after the loss: got the old process, want another")
	}
	m.exec(t, "true")
	now, _ := m.find(t)
	f.Kill(t, now)
	if err := f.Machines.DeleteMachine(ctx, m.name); err != nil {
		t.Errorf("delete a killed machine: got %v, want nil", err)
	}
}

func machineWatch(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	running := m.start(t)

	ended, cancel := context.WithCancel(ctx)
	if err := f.Machines.WatchExit(ended, running, func(string) { t.Error("watch after its context ended: got a call, want none") }); err != nil {
		t.Fatal(err)
	}
	cancel()
	other := running
	other.StartTime = other.StartTime.Add(-time.Hour)
	exits := make(chan string, 2)
	if err := f.Machines.WatchExit(ctx, other, func(name string) { exits <- name }); err != nil {
		t.Fatal(err)
	}
	waitExit(t, exits, m.name) // a process with this PID exists, but it is another one
	if err := f.Machines.WatchExit(ctx, running, func(name string) { exits <- name }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-exits:
		t.Error("running: got an exit, want none")
	case <-time.After(50 * time.Millisecond):
	}
	if err := f.Machines.StopMachine(ctx, m.name); err != nil {
		t.Fatal(err)
	}
	waitExit(t, exits, m.name)
}

// machineCommand checks that the command of the spec runs at every start.
func machineCommand(t *testing.T, f MachinesFixture) {
	v, _ := f.Machines.Version(t.Context())
	if !v.Command || !version.MustParseGeneric(v.Version).AtLeast(version.MustParseGeneric("1.9.0")) {
		return // create refuses the command ("unsupported by the version" checks that), or a start does not run it
	}
	m, ctx := newMachine(t, f), t.Context()
	m.spec.Command = []string{"sh", "-c", `echo "$0 $PLAIN" >>/ran; sync; sleep 1000`, "it's a \"workload\""}
	m.create(t)
	want := ""
	for range 2 {
		m.start(t)
		want += "it's a \"workload\" 1\n"
		got := ""
		for end := time.Now().Add(time.Minute); got != want && time.Now().Before(end); {
			var out bytes.Buffer
			if _, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: []string{"cat", "/ran"}, Stdout: &out}); err != nil {
				t.Fatal(err)
			}
			got = out.String()
		}
		if got != want {
			t.Errorf("the workload wrote: got %q, want %q", got, want)
		}
		if err := f.Machines.StopMachine(ctx, m.name); err != nil {
			t.Fatal(err)
		}
	}
}

func machineThreeStarts(t *testing.T, f MachinesFixture) {
	machines := make([]*testMachine, 3)
	for i := range machines {
		machines[i] = newMachine(t, f)
		machines[i].create(t)
	}
	inParallel(t, len(machines), func(i int) error {
		err := f.Machines.StartMachine(t.Context(), machines[i].name, "")
		for range bootTries - 1 {
			if errors.Is(err, host.ErrBootFailed) {
				err = f.Machines.StartMachine(t.Context(), machines[i].name, "")
			}
		}
		return err
	})
	pids := map[int]bool{}
	for _, m := range machines {
		if got, _ := m.find(t); got.PID != 0 {
			pids[got.PID] = true
		}
		m.exec(t, "true")
	}
	if len(pids) != len(machines) {
		t.Errorf("processes: got %d, want %d", len(pids), len(machines))
	}
	inParallel(t, len(machines), func(i int) error { return f.Machines.StopMachine(t.Context(), machines[i].name) })
}

// machineMissingSecret checks that a start reads the secrets, and that a failed
// start leaves no process.
func machineMissingSecret(t *testing.T, f MachinesFixture) {
	if v, _ := f.Machines.Version(t.Context()); !v.SecretFiles {
		return // create refuses secrets; "unsupported by the version" checks that
	}
	m, ctx := newMachine(t, f), t.Context()
	path := writeFile(t, f, "secret", "later")
	m.spec.Secrets = []host.SecretFile{{Name: "TOKEN", Path: path + "-moved"}}
	m.create(t)
	wantKind(t, "start", f.Machines.StartMachine(ctx, m.name, ""), host.ErrBootFailed)
	if got, ok := m.find(t); !ok || got.State == host.MachineRunning || got.PID != 0 {
		t.Errorf("after a failed start: got %+v, want it listed and down", got)
	}
	for _, left := range f.Leftovers(t, m.name) {
		if strings.HasPrefix(left, "process") {
			t.Errorf("after a failed start: got %s, want no process", left)
		}
	}
}
