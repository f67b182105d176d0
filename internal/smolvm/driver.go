// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/backoff"
	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/keyed"
	"botbottle.dev/bottle-operator/internal/runner"
)

// Times that calls may take. Each is far above what was measured, for slow
// nodes; a start has Options.StartTimeout.
const (
	versionTimeout = 20 * time.Second
	listTimeout    = 2 * time.Minute  // 3 s for each machine that does not answer
	createTimeout  = 10 * time.Minute // hashes the archive, up to 8 GiB, or unpacks an artifact
	stopTimeout    = 2 * time.Minute
	deleteTimeout  = 2 * time.Minute
	copyTimeout    = 15 * time.Minute // 4 GiB at most
	// tidyTimeout bounds what is done after the caller's context ended.
	tidyTimeout = 30 * time.Second
)

// Options of a Driver. Dir and Home are required.
type Options struct {
	// Dir is the installation: smolvm, lib/ and agent-rootfs/.
	Dir string
	// Home is smolvm's own world, its HOME on every call, absolute.
	Home string
	// StartTimeout bounds one start; zero is five minutes. smolvm gives the
	// boot 30 s and its own calls more, so that less would cut it short.
	StartTimeout time.Duration
	// Cgroups is the parent of the machines' cgroups, a path below the mount of
	// the unified hierarchy; empty is cgroup.DefaultParent. Drivers that share a
	// hierarchy, such as those of several nodes on one host, need one each.
	Cgroups string
	// Runner runs smolvm; nil is runner.Exec.
	Runner runner.Runner
}

// Driver drives the smolvm of one node. Its methods may be called at once from
// anywhere; only one Driver may write to one Home.
type Driver struct {
	opts     Options
	runner   runner.Runner
	versions versions
	booted   bootTime
	groups   groups

	// machine serialises what is done to one machine. Taken before writes.
	machine keyed.Locks
	// writes lets one writing call through at a time.
	writes *semaphore.Weighted
	// execs caps connections to one guest's agent.
	execs keyed.Locks

	preparing sync.Mutex
	prepared  bool
}

var _ host.Machines = (*Driver)(nil)

// New returns a Driver. It touches nothing until it is first called.
func New(opts Options) *Driver {
	opts.StartTimeout = cmp.Or(opts.StartTimeout, 5*time.Minute)
	if opts.Runner == nil {
		opts.Runner = runner.Exec{}
	}
	opts.Cgroups = cmp.Or(opts.Cgroups, cgroup.DefaultParent)
	return &Driver{
		opts:   opts,
		runner: opts.Runner,
		writes: semaphore.NewWeighted(1),
		execs:  keyed.Locks{Size: maxExecs},
	}
}

func (d *Driver) binary() string { return filepath.Join(d.opts.Dir, "smolvm") }

// environment is the whole of what smolvm inherits, and the VMM from it.
func (d *Driver) environment() []string {
	return []string{
		"HOME=" + d.opts.Home,
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"SMOLVM_LIB_DIR=" + filepath.Join(d.opts.Dir, "lib"),
		"SMOLVM_AGENT_ROOTFS=" + filepath.Join(d.opts.Dir, "agent-rootfs"),
		// A hidden machine of 4 vCPUs and 8 GiB would prepare each image.
		"SMOLVM_IMAGE_SEEDS=0",
	}
}

// hardening is asked for by whoever starts a machine; the plain command line
// uses none of it by itself.
func (c capabilities) hardening() []string {
	var env []string
	if c.seccomp {
		env = append(env, "SMOLVM_SECCOMP=enforce")
	}
	if c.landlock {
		env = append(env, "SMOLVM_LANDLOCK=enforce")
	}
	return env
}

// call is one call of smolvm.
type call struct {
	// what it is in errors: the subcommand and the machine.
	what           string
	args           []string
	env            []string // beside the environment of every call
	netns          string   // a file; "" is this process's own
	cgroup         *os.File // a folder; nil is this process's own
	timeout        time.Duration
	stdin          io.Reader
	stdout, stderr io.Writer
	// boots: it starts a machine, so that what fails is the boot.
	boots bool
}

func (d *Driver) command(c call) runner.Command {
	return runner.Command{
		Path: d.binary(), Args: c.args,
		Env:   slices.Concat(d.environment(), c.env),
		NetNS: c.netns, Cgroup: c.cgroup,
		Dir:   d.opts.Home,
		Stdin: c.stdin, Stdout: c.stdout, Stderr: c.stderr,
		Timeout: c.timeout,
		// smolvm cleans up after itself on this one alone.
		Signal: syscall.SIGINT, Grace: 15 * time.Second,
		MaxOutput: 16 << 20,
	}
}

// run calls smolvm; its errors have one of the port's kinds where one fits,
// and texts that are safe to show.
func (d *Driver) run(ctx context.Context, c call) (runner.Result, error) {
	if err := d.removePlanted(); err != nil {
		return runner.Result{}, fmt.Errorf("%s: %w", c.what, err)
	}
	res, err := d.runner.Run(ctx, d.command(c))
	if err != nil {
		return res, explain(c, res, err)
	}
	return res, nil
}

// lockedAttempts is how often a write is tried while the database is locked,
// two and a half seconds in all.
const lockedAttempts = 8

// write is run for calls that write smolvm's database; it tries again while
// the database is locked, which passes in milliseconds.
func (d *Driver) write(ctx context.Context, c call) error {
	for attempt := 1; ; attempt++ {
		_, err := d.run(ctx, c)
		if !isLocked(err) || attempt == lockedAttempts {
			return err
		}
		if err := sleep(ctx, jitter(backoff.After(attempt, 20*time.Millisecond, 2*time.Second))); err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
	}
}

// ours refuses to act on a machine whose name no Bottle's can have.
func ours(name string) error {
	if !cgroup.ValidID(name) {
		return fmt.Errorf("machine %q is not a bottle's: %w", name, host.ErrInvalid)
	}
	return nil
}

// prepare makes smolvm's world: passable for the users that the VMMs run as,
// but for the database, which keeps every env value in clear.
func (d *Driver) prepare() error {
	d.preparing.Lock()
	defer d.preparing.Unlock()
	if d.prepared {
		return nil
	}
	home := d.opts.Home
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{
		{home, 0o711},
		{home + "/.local", 0o711},
		{home + "/.local/share", 0o711},
		{home + "/.local/share/smolvm", 0o700},
		{home + "/.config", 0o711},
		{home + "/.config/smolvm", 0o711},
		{home + "/.cache", 0o711},
	} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("make smolvm's home: %w: %w", host.ErrUnavailable, err)
		}
		if err := os.Chmod(dir.path, dir.mode); err != nil {
			return fmt.Errorf("make smolvm's home: %w: %w", host.ErrUnavailable, err)
		}
	}
	if err := d.removeSnapshots(); err != nil {
		return fmt.Errorf("make smolvm's home: %w: %w", host.ErrUnavailable, err)
	}
	// smolvm keeps a file of what was done when otherwise.
	if _, err := atomicfile.WriteIfChanged(home+"/.config/smolvm/config.toml", []byte("[usage]\nrecord = false\n"), 0o644); err != nil {
		return fmt.Errorf("make smolvm's home: %w: %w", host.ErrUnavailable, err)
	}
	d.prepared = true
	return nil
}
