// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

func machineVersion(t *testing.T, f MachinesFixture) {
	v, err := f.Machines.Version(t.Context())
	if err != nil || v.Version == "" || v.Older {
		t.Fatalf("got %+v, %v, want a version", v, err)
	}
	var major, minor, patch int
	if n, err := fmt.Sscanf(v.Version, "%d.%d.%d", &major, &minor, &patch); n != 3 || err != nil {
		t.Errorf("version: got %q, want three numbers", v.Version)
	}
	if v.Backend != "virtio-net" && v.Backend != "tsi" {
		t.Errorf("backend: got %q, want one of smolvm's two", v.Backend)
	}
}

func machineRecord(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	v, _ := f.Machines.Version(t.Context())
	if _, ok := m.find(t); ok {
		t.Fatal("before create: got it listed, want it absent")
	}
	m.create(t)
	got, ok := m.find(t)
	if !ok {
		t.Fatal("after create: not in the list")
	}
	want := host.Machine{Name: m.name, State: host.MachineCreated}
	if v.Labels {
		want.UID = m.spec.Owner.UID
	}
	if m.spec.Image != "" {
		archive, err := os.ReadFile(m.spec.Image)
		mustDo(t, "archive", err)
		want.Image = fmt.Sprintf("local:%x", sha256.Sum256(archive))
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(host.Machine{}, "CPUs", "MemoryMiB", "AllowedCIDRs")); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	wantKind(t, "create again", f.Machines.CreateMachine(t.Context(), m.spec), host.ErrConflict)
	for range 2 {
		if err := f.Machines.DeleteMachine(t.Context(), m.name); err != nil {
			t.Errorf("delete: got %v, want nil", err)
		}
		if _, ok := m.find(t); ok {
			t.Error("after delete: got it listed, want it absent")
		}
		if left := f.Leftovers(t, m.name); len(left) > 0 {
			t.Errorf("after delete: got %q left, want nothing", left)
		}
	}
	m.create(t) // the name must be free again
}

func machineSizes(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	m.spec.Size = machinesize.Size{CPUs: 2, MemoryMiB: 320, StorageGiB: 3, OverlayGiB: 2}
	m.create(t)
	if got, _ := m.find(t); got.CPUs != 2 || got.MemoryMiB != 320 {
		t.Errorf("got %d CPUs and %d MiB, want 2 and 320", got.CPUs, got.MemoryMiB)
	}
}

func machinePolicy(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	m.create(t)
	got, _ := m.find(t)
	var want []string
	if v, _ := f.Machines.Version(t.Context()); v.PolicyInList {
		want = []string{"192.168.44.2/32"}
	}
	if diff := cmp.Diff(want, got.AllowedCIDRs); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func machineAbsent(t *testing.T, f MachinesFixture) {
	name, ctx := newOwner("absent").ID(), t.Context()
	for range 2 {
		if err := f.Machines.StopMachine(ctx, name); err != nil {
			t.Errorf("stop: got %v, want nil", err)
		}
		if err := f.Machines.DeleteMachine(ctx, name); err != nil {
			t.Errorf("delete: got %v, want nil", err)
		}
	}
	wantKind(t, "start", f.Machines.StartMachine(ctx, name, ""), host.ErrNotFound)
	_, err := f.Machines.Exec(ctx, name, host.ExecRequest{Command: []string{"true"}})
	wantKind(t, "exec", err, host.ErrNotFound)
	wantKind(t, "copy", f.Machines.Copy(ctx, name, writeFile(t, f, "copied", "x"), "/x"), host.ErrNotFound)
	if left := f.Leftovers(t, name); len(left) > 0 {
		t.Errorf("left of an absent machine: got %q, want nothing", left)
	}
}

func machineNotStarted(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	_, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: []string{"true"}})
	wantKind(t, "exec", err, host.ErrNotRunning)
	wantKind(t, "copy", f.Machines.Copy(ctx, m.name, writeFile(t, f, "copied", "x"), "/x"), host.ErrNotRunning)
	if err := f.Machines.StopMachine(ctx, m.name); err != nil {
		t.Errorf("stop: got %v, want nil", err)
	}
	got, ok := m.find(t)
	if !ok || got.PID != 0 || got.State == host.MachineRunning {
		t.Errorf("got %+v, want it listed and not running", got)
	}
	wantKind(t, "watch", f.Machines.WatchExit(ctx, got, func(string) { t.Error("got an exit, want none") }), host.ErrNotRunning)
}

// machineBadSmolfile checks that errors contain no values from a bad Smolfile,
// although smolvm's own errors quote its lines.
func machineBadSmolfile(t *testing.T, f MachinesFixture) {
	for name, content := range map[string]string{
		"syntax":      "env = [\"TOKEN=hunter2-value\", ]]\n",
		"type":        "env = \"TOKEN=hunter2-value\"\n",
		"unknown key": "TOKEN_hunter2-value = \"x\"\nenv = []\n",
		"raw control": "env = [\"TOKEN=hunter2-value\x01\"]\n",
	} {
		m := newMachine(t, f)
		m.spec.Smolfile = writeFile(t, f, "Smolfile", content)
		err := f.Machines.CreateMachine(t.Context(), m.spec)
		wantKind(t, name, err, host.ErrInvalid)
		if err != nil && name != "unknown key" && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want no value in it", name, err)
		}
		if _, ok := m.find(t); ok {
			t.Errorf("%s: got a machine, want none", name)
		}
	}
}

func machineStoredEnv(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	m.create(t)
	if diff := cmp.Diff(machineEnv, f.StoredEnv(t, m.name)); diff != "" {
		t.Errorf("env stored (-want +got):\n%s", diff)
	}
}

func machineSecretReference(t *testing.T, f MachinesFixture) {
	if v, _ := f.Machines.Version(t.Context()); !v.SecretFiles {
		return // create refuses secrets; "unsupported by the version" checks that
	}
	const value = "correct-horse-battery-staple"
	m := newMachine(t, f)
	m.spec.Secrets = []host.SecretFile{{Name: "TOKEN", Path: writeFile(t, f, "secret", value)}}
	m.create(t)
	if where := f.PlacesContaining(t, value); len(where) > 0 {
		t.Errorf("the secret's value: found in %q, want it nowhere", where)
	}
	if len(f.PlacesContaining(t, envMarker)) == 0 {
		t.Error("an env value: found nowhere, so the search does not work")
	}
}

func machineForeign(t *testing.T, f MachinesFixture) {
	ctx := t.Context()
	name := "image-seed-0123abcd-" + newOwner("x").UID8()
	f.AddForeign(t, name)
	list, err := f.Machines.ListMachines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	isForeign := func(m host.Machine) bool { return m.Name == name }
	if !slices.ContainsFunc(list, isForeign) {
		t.Errorf("list: %s is missing, want every machine", name)
	}
	wantKind(t, "stop", f.Machines.StopMachine(ctx, name), host.ErrInvalid)
	wantKind(t, "delete", f.Machines.DeleteMachine(ctx, name), host.ErrInvalid)
	wantKind(t, "start", f.Machines.StartMachine(ctx, name, ""), host.ErrInvalid)
	if list, err = f.Machines.ListMachines(ctx); err != nil || !slices.ContainsFunc(list, isForeign) {
		t.Errorf("afterwards: got %v, %v, want %s untouched", list, err, name)
	}
}

func machineTwenty(t *testing.T, f MachinesFixture) {
	machines := make([]*testMachine, 20)
	for i := range machines {
		machines[i] = newMachine(t, f)
	}
	inParallel(t, len(machines), func(i int) error {
		if err := f.Machines.CreateMachine(t.Context(), machines[i].spec); err != nil {
			return err
		}
		_, err := f.Machines.ListMachines(t.Context())
		return err
	})
	for _, m := range machines {
		if _, ok := m.find(t); !ok {
			t.Errorf("%s: not in the list after create", m.name)
		}
	}
	inParallel(t, len(machines), func(i int) error { return f.Machines.DeleteMachine(t.Context(), machines[i].name) })
	for _, m := range machines {
		if _, ok := m.find(t); ok {
			t.Errorf("%s: still in the list after delete", m.name)
		}
	}
}

// inParallel makes n parallel calls of do, and wants no errors.
func inParallel(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			if err := do(i); err != nil {
				t.Errorf("%d of %d in parallel: got %v, want nil", i, n, err)
			}
		})
	}
	wait.Wait()
}

func machineOneName(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	var mu sync.Mutex
	created := 0
	inParallel(t, 10, func(int) error {
		err := f.Machines.CreateMachine(t.Context(), m.spec)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			created++
		case !errors.Is(err, host.ErrConflict):
			return err
		}
		return nil
	})
	if created != 1 {
		t.Errorf("created: got %d times, want once", created)
	}
}

func machineCancelled(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, "create", f.Machines.CreateMachine(ctx, m.spec), context.Canceled)
	wantKind(t, "stop", f.Machines.StopMachine(ctx, m.name), context.Canceled)
	wantKind(t, "delete", f.Machines.DeleteMachine(ctx, m.name), context.Canceled)
	if _, ok := m.find(t); ok {
		t.Error("got a machine, want none")
	}
}
