// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

// cli is a fake command line: it answers from a map of states and records its
// calls.
type cli struct {
	mu       sync.Mutex
	version  string
	states   map[string]string
	pids     map[string]int
	calls    []runner.Command
	bootTime time.Duration
	booting  int
	most     int // the most boots at one time
	execs    int
	mostExec int // the most execs at one time
	// folder is the last cgroup that was made, in a tree that only looks like
	// the kernel's.
	folder string
	// hashTime is how long a create from an image takes.
	hashTime time.Duration
	// fail, if it returns true, answers the call instead of Run.
	fail func(args string) (runner.Result, bool)
}

func (c *cli) Run(ctx context.Context, cmd runner.Command) (runner.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, cmd)
	if c.fail != nil {
		if res, failed := c.fail(strings.Join(cmd.Args, " ")); failed {
			return res, &runner.Error{Started: true, ExitCode: res.ExitCode}
		}
	}
	name := ""
	for _, a := range cmd.Args {
		if n, ok := strings.CutPrefix(a, "--name="); ok {
			name = n
		}
	}
	switch verb(cmd) {
	case "--version":
		return runner.Result{Stdout: []byte("smolvm " + c.version + "\n")}, nil
	case "ls":
		return c.list("")
	case "status":
		return c.status(name)
	case "create":
		if slices.ContainsFunc(cmd.Args, func(a string) bool { return strings.HasPrefix(a, "--image=") }) {
			c.wait(ctx, c.hashTime)
		}
		c.states[name] = "created"
	case "start":
		c.booting++
		c.most = max(c.most, c.booting)
		c.wait(ctx, c.bootTime)
		c.booting--
		c.states[name] = "running"
	case "stop":
		c.states[name] = "stopped"
	case "delete":
		delete(c.states, name)
	case "exec":
		c.execs++
		c.mostExec = max(c.mostExec, c.execs)
		c.wait(ctx, time.Second)
		c.execs--
	}
	return runner.Result{}, nil
}

// make writes the files that the kernel creates in a new cgroup.
func (c *cli) make(dir string) error {
	var errs []error
	for file, content := range map[string]string{
		"cgroup.procs": "", "cgroup.events": "populated 0\n", "cgroup.kill": "", "memory.max": "max", "pids.max": "max", "cpu.max": "max",
		"../cgroup.controllers": "cpu memory pids", "../cgroup.subtree_control": "cpu memory pids",
	} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.folder = dir
	return errors.Join(errs...)
}

func (c *cli) wait(ctx context.Context, d time.Duration) {
	c.mu.Unlock()
	defer c.mu.Lock()
	_ = sleep(ctx, d)
}

func (c *cli) status(name string) (runner.Result, error) {
	if _, has := c.states[name]; !has {
		return runner.Result{ExitCode: 1, Stderr: []byte("Error: config operation failed: machine status: machine '" + name + "' not found\n")},
			&runner.Error{Started: true, ExitCode: 1}
	}
	res, err := c.list(name)
	res.Stdout = bytes.Trim(res.Stdout, "[]")
	return res, err
}

// list lists the machine with this name, or all of them for "".
func (c *cli) list(only string) (runner.Result, error) {
	type m struct {
		Name  string `json:"name"`
		State string `json:"state"`
		PID   int    `json:"pid"`
		CPUs  int32  `json:"cpus"`
		MiB   int64  `json:"memory_mib"`
	}
	all := []m{}
	for name, state := range c.states {
		if only != "" && name != only {
			continue
		}
		all = append(all, m{name, state, c.pids[name], 2, 1024})
	}
	b, err := json.Marshal(all)
	return runner.Result{Stdout: b}, err
}

func verb(c runner.Command) string {
	if len(c.Args) > 1 {
		return c.Args[1]
	}
	return c.Args[0]
}

// verbs returns the subcommands that were called, except those that only inspect.
func (c *cli) verbs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, call := range c.calls {
		if v := verb(call); v != "ls" && v != "status" && v != "--version" {
			out = append(out, v)
		}
	}
	return out
}

func newCLI(t *testing.T, version string) (*cli, *Driver) {
	t.Helper()
	c := &cli{version: version, states: map[string]string{}}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "smolvm"), []byte("a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := New(Options{Dir: dir, Home: filepath.Join(dir, "state/smolvm"), Runner: c})
	d.stored = func(context.Context, string) ([]byte, error) { return []byte("{}"), nil }
	// These tests start no processes, so fake cgroups are enough.
	tree := t.TempDir()
	for file, content := range map[string]string{"cgroup.procs": "", "cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu memory pids"} {
		if err := os.WriteFile(filepath.Join(tree, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if d.groups.open, err = cgroup.At(tree, cgroup.DefaultParent, c.make); err != nil {
		t.Fatal(err)
	}
	return c, d
}

func specOf(slug string) host.MachineSpec {
	return host.MachineSpec{Owner: host.Owner{UID: "1a2b3c4d-0000", Slug: slug}, Smolfile: "/b/Smolfile"}
}

func TestEnvironment(t *testing.T) {
	for version, hardening := range map[string][]string{
		"0.8.0":  nil,
		"0.9.0":  {"SMOLVM_SECCOMP=enforce"},
		"1.32.2": {"SMOLVM_SECCOMP=enforce", "SMOLVM_LANDLOCK=enforce"},
	} {
		t.Setenv("SMOLVM_DATA_DIR", "/leaked")
		c, d := newCLI(t, version)
		name := specOf("demo").Owner.ID()
		c.states[name] = "created"
		if err := d.StartMachine(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
		every := []string{
			"HOME=" + d.opts.Home, "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
			"SMOLVM_LIB_DIR=" + d.opts.Dir + "/lib", "SMOLVM_AGENT_ROOTFS=" + d.opts.Dir + "/agent-rootfs", "SMOLVM_IMAGE_SEEDS=0",
		}
		for _, call := range c.calls {
			want := every
			if verb(call) == "start" {
				want = slices.Concat(every, hardening)
			}
			if diff := cmp.Diff(want, call.Env); diff != "" {
				t.Errorf("%s %s: environment (-want +got):\n%s", version, verb(call), diff)
			}
			if call.Timeout <= 0 || call.Path != d.opts.Dir+"/smolvm" {
				t.Errorf("%s %s: got %s with timeout %v, want the installed smolvm and a timeout", version, verb(call), call.Path, call.Timeout)
			}
		}
	}
}

func TestHome(t *testing.T) {
	_, d := newCLI(t, "1.32.2")
	// Modes that a umask of 077 or an earlier run may have left.
	if err := os.MkdirAll(d.opts.Home+"/.local/share/smolvm", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.opts.Home+"/.local/share/smolvm", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Version(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{
		"": 0o711, ".local": 0o711, ".local/share": 0o711, ".local/share/smolvm": 0o700, ".cache": 0o711, ".cache/smolvm": 0o711, ".cache/smolvm/vms": 0o711,
		".cache/smolvm-image-archives": 0o711, ".config/smolvm/config.toml": 0o644,
	} {
		st, err := os.Stat(filepath.Join(d.opts.Home, path))
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v, want mode %o", path, st.Mode().Perm(), err, want)
		}
	}
	b, err := os.ReadFile(d.opts.Home + "/.config/smolvm/config.toml")
	if err != nil || string(b) != "[usage]\nrecord = false\n" {
		t.Errorf("config.toml: got %q, %v, want usage off", b, err)
	}
}

func TestVersionRunsOncePerBinary(t *testing.T) {
	c, d := newCLI(t, "1.9.1")
	versionCalls := func() (n int) {
		for _, call := range c.calls {
			if verb(call) == "--version" {
				n++
			}
		}
		return n
	}
	for range 3 {
		if v, err := d.Version(t.Context()); err != nil || v.Version != "1.9.1" || versionCalls() != 1 {
			t.Fatalf("got %v, %v after %d calls, want 1.9.1 after one call", v, err, versionCalls())
		}
	}
	c.version = "1.32.2"
	if err := os.WriteFile(filepath.Join(d.opts.Dir, "smolvm"), []byte("another program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if v, err := d.Version(t.Context()); err != nil || v.Version != "1.32.2" || versionCalls() != 2 {
		t.Errorf("after an upgrade: got %v, %v after %d calls, want 1.32.2 after two calls", v, err, versionCalls())
	}
	if err := os.Remove(filepath.Join(d.opts.Dir, "smolvm")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Version(t.Context()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("without a binary: got %v, want ErrUnavailable", err)
	}
}

func TestTooOldReleaseIsNotCalled(t *testing.T) {
	c, d := newCLI(t, "0.7.9")
	ctx, name := t.Context(), specOf("demo").Owner.ID()
	if v, err := d.Version(ctx); err != nil || !v.Older {
		t.Errorf("version: got %+v, %v, want Older", v, err)
	}
	_, list := d.ListMachines(ctx)
	_, exec := d.Exec(ctx, name, host.ExecRequest{Command: []string{"true"}})
	for what, err := range map[string]error{
		"list": list, "exec": exec, "create": d.CreateMachine(ctx, specOf("demo")), "start": d.StartMachine(ctx, name, ""),
		"stop": d.StopMachine(ctx, name), "delete": d.DeleteMachine(ctx, name), "copy": d.Copy(ctx, name, "/a", "/b"),
	} {
		if !errors.Is(err, host.ErrUnsupported) {
			t.Errorf("%s: got %v, want ErrUnsupported", what, err)
		}
	}
	if len(c.calls) != 1 {
		t.Errorf("calls: got %d, want only --version", len(c.calls))
	}
}

// A call that only reads can find the database locked, too: with 1.9.1, a
// machine's status failed with "configure pragmas: database is locked" beside
// other calls.
func TestLockedDatabaseIsRetried(t *testing.T) {
	for _, verb := range []string{"create", "status"} {
		t.Run(verb, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, d := newCLI(t, "1.9.1")
				left, locked := 3, 0
				c.fail = func(args string) (runner.Result, bool) {
					if !strings.Contains(args, verb) || left == 0 {
						return runner.Result{}, false
					}
					left--
					locked++
					return runner.Result{ExitCode: 1, Stderr: []byte("Error: database operation failed: reserve vm 'x': database is locked\n")}, true
				}
				if err := d.CreateMachine(t.Context(), specOf("demo")); err != nil || locked != 3 {
					t.Errorf("locked three times: got %v after %d locked calls, want nil after 3", err, locked)
				}
				left, locked = -1, 0
				err := d.CreateMachine(t.Context(), specOf("other"))
				most := 12
				if verb == "status" { // the inspection after the creation, and the one of the removal
					most = 2 * 8
				}
				if !errors.Is(err, host.ErrUnavailable) || locked < 2 || locked > most {
					t.Errorf("locked forever: got %v after %d locked calls, want ErrUnavailable after a few", err, locked)
				}
			})
		})
	}
}
