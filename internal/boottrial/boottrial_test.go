// SPDX-License-Identifier: Apache-2.0

package boottrial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/test/require"
)

// node is a node on which trials are made.
type node struct {
	*Trial
	machines *hosttest.Machines
	boot     string
	released int
	netns    string
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{machines: hosttest.NewMachines(nil), boot: "first", netns: "/proc/self/ns/net"}
	n.Trial = New(Options{
		Dir:      filepath.Join(t.TempDir(), "boot-trial"),
		Machines: func(home string) Machines { return &homed{Machines: n.machines, home: home} },
		BootID:   func() (string, error) { return n.boot, nil },
		Isolate:  func() (string, func(), error) { return n.netns, func() { n.released++ }, nil },
	})
	return n
}

// homed is a driver of smolvm. As the real one, it creates its home once, at its first
// call, and smolvm works only there.
type homed struct {
	Machines
	home     string
	prepared bool
}

func (h *homed) prepare() error {
	if h.prepared {
		_, err := os.Stat(h.home)
		return err
	}
	h.prepared = true
	return os.MkdirAll(h.home, 0o711)
}

func (h *homed) Version(ctx context.Context) (host.SmolvmVersion, error) {
	if err := h.prepare(); err != nil {
		return host.SmolvmVersion{}, err
	}
	return h.Machines.Version(ctx)
}

func (h *homed) CreateMachine(ctx context.Context, s host.MachineSpec) error {
	if err := h.prepare(); err != nil {
		return err
	}
	return h.Machines.CreateMachine(ctx, s)
}

func (h *homed) DeleteMachine(ctx context.Context, name string) error {
	if err := h.prepare(); err != nil {
		return err
	}
	return h.Machines.DeleteMachine(ctx, name)
}

func (n *node) want(t *testing.T, state State, message string) {
	t.Helper()
	if got, text := n.State(); got != state || !strings.Contains(text, message) || message == "" && text != "" {
		t.Errorf("state: got %d %q, want %d with %q", got, text, state, message)
	}
}

// wantNothingLeft checks what a trial leaves on the node: the verdict and the lock.
func (n *node) wantNothingLeft(t *testing.T) {
	t.Helper()
	if names := append(n.machines.Names(), n.machines.Leftovers()...); len(names) > 0 {
		t.Errorf("machines: got %v, want none", names)
	}
	entries, err := os.ReadDir(n.Dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "verdict.json" && e.Name() != "lock" {
			t.Errorf("files: got %s, want none but the verdict and the lock", e.Name())
		}
	}
	starts := 0
	for _, call := range n.machines.Faults.Calls() {
		if strings.HasPrefix(call, "StartMachine") {
			starts++
		}
	}
	if starts > 0 && n.released == 0 {
		t.Error("the network namespace was not released")
	}
}

func TestAMicroVMThatBoots(t *testing.T) {
	n := newNode(t)
	n.want(t, Untried, "no microVM has booted on this node since the node itself booted")
	var spec host.MachineSpec
	n.machines.OnExec(func(name string, req host.ExecRequest) (int, error) {
		_, spec, _ = n.machines.Get(name)
		if !slices.Equal(req.Command, []string{"true"}) || req.Timeout == 0 {
			t.Errorf("exec: got %v with timeout %s, want true with one", req.Command, req.Timeout)
		}
		return 0, nil
	})
	if err := n.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.want(t, Booted, "")
	n.wantNothingLeft(t)
	if spec.CPUs != 1 || spec.MemoryMiB != 256 || spec.Image != "" || len(spec.Mounts) > 0 {
		t.Errorf("machine: got %+v, want a small one without image and mounts", spec)
	}
	n.boot = "second"
	n.want(t, Untried, "no microVM has booted")
}

func TestAMicroVMThatDoesNotBoot(t *testing.T) {
	failed := fmt.Errorf("start machine %s: %w: not ready after 5m0s", Name, host.ErrBootFailed)
	t.Run("never", func(t *testing.T) {
		n := newNode(t)
		n.machines.Faults.Fail("StartMachine", hosttest.Before, hosttest.Always, failed)
		if err := n.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.want(t, Failed, "smolvm 1.32.2 does not boot on this node (start machine bottle-boot-trial-00000000: machine did not boot: not ready after 5m0s): enable nested virtualisation")
		n.wantNothingLeft(t)
		n.machines.Faults.Heal()
		if err := n.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.want(t, Booted, "")
	})
	t.Run("at the first start", func(t *testing.T) {
		n := newNode(t)
		n.machines.Faults.Fail("StartMachine", hosttest.Half, 1, failed)
		if err := n.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.want(t, Booted, "")
		n.wantNothingLeft(t)
	})
	t.Run("a guest that runs nothing", func(t *testing.T) {
		n := newNode(t)
		n.machines.OnExec(func(string, host.ExecRequest) (int, error) { return 127, nil })
		if err := n.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.want(t, Failed, "a command in its guest ended with code 127")
		n.wantNothingLeft(t)
	})
}

// What fails for a reason other than the boot is no verdict, and leaves an earlier one.
func TestATrialThatFindsOutNothing(t *testing.T) {
	for _, call := range []string{"Version", "CreateMachine", "StartMachine", "Exec", "DeleteMachine"} {
		for _, when := range []hosttest.When{hosttest.Before, hosttest.After} {
			n := newNode(t)
			n.machines.Faults.Fail(call, when, 1, host.ErrUnavailable)
			if err := n.Run(t.Context()); !errors.Is(err, host.ErrUnavailable) {
				t.Errorf("%s: got %v, want %v", call, err, host.ErrUnavailable)
			}
			n.want(t, Untried, "no microVM")
			if call != "DeleteMachine" {
				n.wantNothingLeft(t)
			}
			if err := n.Run(t.Context()); err != nil {
				t.Errorf("%s, again: got %v", call, err)
			}
			n.want(t, Booted, "")
			n.wantNothingLeft(t)
		}
	}
}

// errCrash stands for the end of the process: nothing happens after it.
var errCrash = errors.New("crash")

// crashing passes calls on until the process crashes.
type crashing struct {
	Machines
	left int
}

func (c *crashing) call(f func() error) error {
	if c.left--; c.left < 0 {
		return errCrash
	}
	return f()
}

func (c *crashing) CreateMachine(ctx context.Context, s host.MachineSpec) error {
	return c.call(func() error { return c.Machines.CreateMachine(ctx, s) })
}

func (c *crashing) StartMachine(ctx context.Context, name, netns string) error {
	return c.call(func() error { return c.Machines.StartMachine(ctx, name, netns) })
}

func (c *crashing) Exec(ctx context.Context, name string, r host.ExecRequest) (code int, err error) {
	err = c.call(func() error { code, err = c.Machines.Exec(ctx, name, r); return err })
	return code, err
}

func (c *crashing) DeleteMachine(ctx context.Context, name string) error {
	return c.call(func() error { return c.Machines.DeleteMachine(ctx, name) })
}

// Wherever the agent crashes in a trial, there is no verdict, and both Clean and the next
// trial remove everything.
func TestACrash(t *testing.T) {
	for calls := 0; ; calls++ {
		for _, next := range []string{"Clean", "Run"} {
			n := newNode(t)
			machines := n.Machines
			n.Machines = func(home string) Machines { return &crashing{machines(home), calls} }
			err := n.Run(t.Context())
			if err == nil {
				if calls < 4 {
					t.Errorf("a trial made %d calls, want at least 4", calls)
				}
				return
			}
			n.want(t, Untried, "no microVM")
			n.Machines = machines
			switch next {
			case "Clean":
				err = n.Clean(t.Context())
			case "Run":
				err = n.Run(t.Context())
			}
			if err != nil {
				t.Errorf("%s after %d calls: got %v", next, calls, err)
			}
			n.wantNothingLeft(t)
		}
	}
}

func TestOneTrialAtATime(t *testing.T) {
	n := newNode(t)
	n.machines.OnExec(func(string, host.ExecRequest) (int, error) {
		if err := n.Run(t.Context()); !errors.Is(err, ErrInUse) {
			t.Errorf("a second trial: got %v, want %v", err, ErrInUse)
		}
		if err := n.Clean(t.Context()); !errors.Is(err, ErrInUse) {
			t.Errorf("a removal: got %v, want %v", err, ErrInUse)
		}
		return 0, nil
	})
	if err := n.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.want(t, Booted, "")
}

// Neither a file that somebody wrote nor one that is too long is a verdict.
func TestAForeignVerdict(t *testing.T) {
	for _, text := range []string{"", "{", `{"bootID":"other","booted":true}`, `{"problem":"` + strings.Repeat("x", maxVerdict) + `","bootID":"first","booted":true}`} {
		n := newNode(t)
		if err := errors.Join(os.MkdirAll(n.Dir, 0o755), os.WriteFile(n.verdictFile(), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		n.want(t, Untried, "no microVM")
	}
}

func TestIsolate(t *testing.T) {
	require.Root(t)
	path, release, err := Isolate()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	var own, other unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Stat("/proc/self/ns/net", &own), unix.Stat(path, &other), unix.Statfs(path, &fs)); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.NSFS_MAGIC || own.Ino == other.Ino {
		t.Errorf("got %s with inode %d, want another network namespace than %d", path, other.Ino, own.Ino)
	}
}
