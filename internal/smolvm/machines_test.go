// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

// The caller decides how many machines start in parallel, except where the
// release's database allows only one writer.
func TestStartsWaitOnlyForTheDatabase(t *testing.T) {
	for version, want := range map[string]int{"1.32.2": 6, "1.2.5": 1, "1.2.4": 1, "0.8.0": 1} {
		synctest.Test(t, func(t *testing.T) {
			c, d := newCLI(t, version)
			c.bootTime = 10 * time.Second
			var names []string
			for i := range 6 {
				name := specOf(fmt.Sprint("m", i)).Owner.ID()
				c.states[name] = "created"
				names = append(names, name)
			}
			var wait sync.WaitGroup
			for _, name := range names {
				wait.Go(func() {
					if err := d.StartMachine(t.Context(), name, ""); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			wait.Wait()
			if c.most != want {
				t.Errorf("%s: got %d boots in parallel, want %d", version, c.most, want)
			}
		})
	}
}

// If the release's database allows other writers, a boot that takes minutes must
// not block a create.
func TestBootBlocksWritesOnlyOnOldReleases(t *testing.T) {
	for version, blocks := range map[string]bool{"1.32.2": false, "1.22.0": false, "1.18.0": true, "1.9.1": true} {
		synctest.Test(t, func(t *testing.T) {
			c, d := newCLI(t, version)
			c.bootTime = time.Minute
			name := specOf("slow").Owner.ID()
			c.states[name] = "created"
			began := time.Now()
			go func() {
				if err := d.StartMachine(t.Context(), name, ""); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
			if err := d.CreateMachine(t.Context(), specOf("demo")); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(began) >= time.Minute; got != blocks {
				t.Errorf("%s: create was blocked: got %v, want %v", version, got, blocks)
			}
			time.Sleep(2 * time.Minute)
		})
	}
}

// If the release's database allows other writers, a create that hashes a large
// archive must not block others.
func TestLargeImageBlocksWritesOnlyOnOldReleases(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image.tar")
	for _, err := range []error{os.WriteFile(image, nil, 0o644), os.Truncate(image, 1<<30)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for version, blocks := range map[string]bool{"1.32.2": false, "1.22.0": false, "1.18.0": true} {
		synctest.Test(t, func(t *testing.T) {
			c, d := newCLI(t, version)
			c.hashTime = time.Minute
			large := specOf("large")
			large.Image = image
			began := time.Now()
			go func() {
				if err := d.CreateMachine(t.Context(), large); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
			if err := d.CreateMachine(t.Context(), specOf("demo")); err != nil {
				t.Fatal(err)
			}
			if got := time.Since(began) >= time.Minute; got != blocks {
				t.Errorf("%s: create was blocked: got %v, want %v", version, got, blocks)
			}
			time.Sleep(2 * time.Minute)
		})
	}
}

func TestCallsOnOneMachineAreSerialized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := newCLI(t, "1.32.2")
		c.bootTime = time.Minute
		name := specOf("demo").Owner.ID()
		c.states[name] = "created"
		go func() { _ = d.StartMachine(t.Context(), name, "") }()
		synctest.Wait()
		if err := d.DeleteMachine(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"start", "stop", "delete"}, c.verbs()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

func TestStart(t *testing.T) {
	tests := map[string]struct {
		state string
		lies  bool // smolvm reports success, but does not list it as running
		want  error
		calls []string
	}{
		"created":       {"created", false, nil, []string{"start"}},
		"stopped":       {"stopped", false, nil, []string{"start"}},
		"running":       {"running", false, nil, nil},
		"absent":        {"", false, host.ErrNotFound, nil},
		"unreachable":   {"unreachable", false, host.ErrUnavailable, nil},
		"false success": {"created", true, host.ErrBootFailed, []string{"start"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, d := newCLI(t, "1.32.2")
			name := specOf("demo").Owner.ID()
			if tt.state != "" {
				c.states[name] = tt.state
			}
			if tt.lies {
				d.runner = lying{c}
			}
			err := d.StartMachine(t.Context(), name, "")
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(tt.calls, c.verbs()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

// lying reports that a start succeeded although nothing runs.
type lying struct{ c *cli }

func (l lying) Run(ctx context.Context, cmd runner.Command) (runner.Result, error) {
	res, err := l.c.Run(ctx, cmd)
	if verb(cmd) == "start" {
		for name := range l.c.states {
			l.c.states[name] = "created"
		}
	}
	return res, err
}

func TestStopAndDelete(t *testing.T) {
	tests := map[string]struct{ stop, delete []string }{
		"running":     {[]string{"stop"}, []string{"stop", "delete"}},
		"unreachable": {[]string{"stop"}, []string{"stop", "delete"}},
		"frozen":      {[]string{"stop"}, []string{"stop", "delete"}},
		"odd":         {[]string{"stop"}, []string{"stop", "delete"}},
		"created":     {nil, []string{"delete"}},
		"stopped":     {nil, []string{"delete"}},
		"failed":      {nil, []string{"delete"}},
		"":            {nil, nil},
	}
	for state, tt := range tests {
		t.Run("state "+state, func(t *testing.T) {
			name := specOf("demo").Owner.ID()
			for what, do := range map[string]func(*Driver) error{
				"stop":   func(d *Driver) error { return d.StopMachine(t.Context(), name) },
				"delete": func(d *Driver) error { return d.DeleteMachine(t.Context(), name) },
			} {
				c, d := newCLI(t, "1.32.2")
				if state != "" {
					c.states[name] = state
				}
				if err := do(d); err != nil {
					t.Errorf("%s: got %v, want nil", what, err)
				}
				want := tt.stop
				if what == "delete" {
					want = tt.delete
				}
				if diff := cmp.Diff(want, c.verbs()); diff != "" {
					t.Errorf("%s: calls (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}

func TestDeleteFailsWhileMachineIsListed(t *testing.T) {
	c, d := newCLI(t, "1.9.1")
	name := specOf("demo").Owner.ID()
	c.states[name] = "stopped"
	c.fail = nil
	d.runner = keeping{c}
	if err := d.DeleteMachine(t.Context(), name); err == nil {
		t.Error("got nil, want an error: the machine is still listed")
	}
}

// keeping reports that it deleted a machine, but keeps it.
type keeping struct{ c *cli }

func (k keeping) Run(ctx context.Context, cmd runner.Command) (runner.Result, error) {
	if verb(cmd) == "delete" {
		return runner.Result{Stdout: []byte("Cancelled\n")}, nil
	}
	return k.c.Run(ctx, cmd)
}

func TestDeleteRemovesFolderWithoutRecord(t *testing.T) {
	_, d := newCLI(t, "0.8.0")
	name := specOf("demo").Owner.ID()
	dir := d.dataDir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/storage.raw", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.DeleteMachine(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder: got %v, want it gone", err)
	}
}

func TestExecsLeaveRoomForTheLivenessCheck(t *testing.T) {
	for version, want := range map[string]int{"1.9.1": maxExecs, "1.32.2": 10} {
		synctest.Test(t, func(t *testing.T) {
			c, d := newCLI(t, version)
			name := specOf("demo").Owner.ID()
			c.states[name] = "running"
			var wait sync.WaitGroup
			for range 10 {
				wait.Go(func() {
					if _, err := d.Exec(t.Context(), name, host.ExecRequest{Command: []string{"true"}}); err != nil {
						t.Error(err)
					}
				})
			}
			wait.Wait()
			if c.mostExec != want {
				t.Errorf("%s: got %d execs in parallel, want %d", version, c.mostExec, want)
			}
		})
	}
}

func TestWatchExitOfRunningProcess(t *testing.T) {
	_, d := newCLI(t, "1.32.2")
	ticks, ok := startTicks(os.Getpid())
	if !ok {
		t.Fatal("no start time of this process")
	}
	now := time.Now()
	if at := d.booted.at(ticks); at.After(now) || now.Sub(at) > time.Hour {
		t.Errorf("start time: got %v at %v, want less than an hour ago", at, now)
	}
	self := host.Machine{Name: "m", PID: os.Getpid(), StartTime: d.booted.at(ticks)}
	ctx, cancel := context.WithCancel(t.Context())
	if err := d.WatchExit(ctx, self, func(string) { t.Error("this running process was reported as exited") }); err != nil {
		t.Fatal(err)
	}
	cancel()
}
