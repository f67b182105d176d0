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
	"strconv"
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

// Timeouts of calls. Each is far above the measured time, to allow for slow
// nodes. The timeout of a start is Options.StartTimeout.
const (
	versionTimeout = 20 * time.Second
	listTimeout    = 2 * time.Minute  // 3 s for each machine that does not answer
	createTimeout  = 10 * time.Minute // it hashes an archive of up to 8 GiB, or unpacks an artifact
	stopTimeout    = 2 * time.Minute
	deleteTimeout  = 2 * time.Minute
	copyTimeout    = 15 * time.Minute // 4 GiB at most
	// cleanupTimeout bounds the cleanup after the caller's context has ended.
	cleanupTimeout = 30 * time.Second
)

// Options of a Driver. Dir and Home are required.
type Options struct {
	// Dir is the installation folder: it holds smolvm, lib/ and agent-rootfs/.
	Dir string
	// Home is smolvm's HOME on every call, an absolute path. Nothing else uses it.
	Home string
	// StartTimeout bounds one start; zero means five minutes. smolvm waits up to
	// 30 s for the boot and longer for its own calls: a shorter timeout would
	// interrupt it.
	StartTimeout time.Duration
	// Cgroups is the parent of the machines' cgroups, a path below the mount of
	// the unified hierarchy; empty means cgroup.DefaultParent. Drivers that share
	// a hierarchy, such as those of several nodes on one host, need different
	// parents.
	Cgroups string
	// Parent returns the cgroup of the Pod in which a machine that is being started shall
	// run, a path as of cgroup.ValidPod; "" means Cgroups. It is asked by no other call
	// than StartMachine, so that a kill never waits for it. If it returns an error, the
	// machine is not started. nil means Cgroups for all machines.
	Parent func(ctx context.Context, name string) (string, error)
	// BundleMemory returns how many bytes of its Pod's memory a machine leaves to the
	// bundle; 0, or nil instead of the function, means the default. It must not wait.
	BundleMemory func(name string) int64
	// MaxImageBytes bounds an image archive, and what an artifact may be when
	// unpacked; zero means smolvm's own limit for an archive, 8 GiB.
	MaxImageBytes int64
	// DiskReserve is how many bytes of the disk an artifact that is unpacked
	// leaves free.
	DiskReserve int64
	// Runner runs smolvm; nil means runner.Exec.
	Runner runner.Runner
}

// Driver runs the smolvm of one node. Its methods are safe for concurrent use.
// Only one Driver may use a Home.
type Driver struct {
	opts     Options
	runner   runner.Runner
	versions versions
	booted   bootTime
	groups   groups

	// machine serializes calls on one machine. It is locked before writes.
	machine keyed.Locks
	// writes allows one writing call at a time.
	writes *semaphore.Weighted
	// slowCreates limits the creates that take long and do not keep out other
	// writes.
	slowCreates *semaphore.Weighted
	// execs limits the connections to one guest's agent.
	execs keyed.Locks

	// stored returns a machine's record: record, but in tests without a database.
	stored func(ctx context.Context, name string) ([]byte, error)

	preparing sync.Mutex
	prepared  bool
}

var _ host.Machines = (*Driver)(nil)

// New returns a Driver. It has no side effects: the Driver prepares Home on its
// first call.
func New(opts Options) *Driver {
	opts.StartTimeout = cmp.Or(opts.StartTimeout, 5*time.Minute)
	if opts.Runner == nil {
		opts.Runner = runner.Exec{}
	}
	opts.Cgroups = cmp.Or(opts.Cgroups, cgroup.DefaultParent)
	opts.MaxImageBytes = cmp.Or(opts.MaxImageBytes, defaultImageBytes)
	d := &Driver{
		opts:        opts,
		runner:      opts.Runner,
		writes:      semaphore.NewWeighted(1),
		slowCreates: semaphore.NewWeighted(maxSlowCreates),
		execs:       keyed.Locks{Size: maxExecs},
	}
	d.stored = d.record
	return d
}

func (d *Driver) binary() string { return filepath.Join(d.opts.Dir, "smolvm") }

// environment is the complete environment of smolvm, which its VMMs inherit.
func (d *Driver) environment() []string {
	env := []string{
		"HOME=" + d.opts.Home,
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"SMOLVM_LIB_DIR=" + filepath.Join(d.opts.Dir, "lib"),
		"SMOLVM_AGENT_ROOTFS=" + filepath.Join(d.opts.Dir, "agent-rootfs"),
		// Otherwise a hidden machine of 4 vCPUs and 8 GiB would prepare each image.
		"SMOLVM_IMAGE_SEEDS=0",
	}
	if d.opts.MaxImageBytes > defaultImageBytes {
		env = append(env, imageLimitVariable+"="+strconv.FormatInt(d.opts.MaxImageBytes, 10))
	}
	return env
}

// hardening returns the environment that enables smolvm's sandboxing at start.
// smolvm does not enable it by default.
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
	// what describes the call in errors: the subcommand and the machine.
	what           string
	args           []string
	env            []string // in addition to the environment of every call
	netns          string   // a file; "" means this process's namespace
	cgroup         *os.File // a folder; nil means this process's cgroup
	pod            string   // of a start: the Pod's cgroup in which the machine runs; "" for none
	timeout        time.Duration
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       *runner.Terminal
	// boots: the call starts a machine, so that a failure is a failed boot.
	boots bool
}

func (d *Driver) command(c call) runner.Command {
	return runner.Command{
		Path: d.binary(), Args: c.args,
		Env:   slices.Concat(d.environment(), c.env),
		NetNS: c.netns, Cgroup: c.cgroup,
		Dir:   d.opts.Home,
		Stdin: c.stdin, Stdout: c.stdout, Stderr: c.stderr,
		Terminal: c.terminal,
		Timeout:  c.timeout,
		// SIGINT is the only signal on which smolvm cleans up.
		Signal: syscall.SIGINT, Grace: 15 * time.Second,
		MaxOutput: 16 << 20,
	}
}

// lockedAttempts is how often a call is tried while the database is locked, for
// about two and a half seconds in total.
const lockedAttempts = 8

// run calls smolvm. It retries while smolvm's database is locked, which usually
// takes milliseconds: every subcommand opens the database, and some releases
// configure it then, so even a call that only reads can find it locked. Its
// errors wrap one of package host's errors where one fits, and their texts are
// safe to show.
func (d *Driver) run(ctx context.Context, c call) (runner.Result, error) {
	for attempt := 1; ; attempt++ {
		res, err := d.runOnce(ctx, c)
		if !isLocked(err) || attempt == lockedAttempts {
			return res, err
		}
		if err := sleep(ctx, jitter(backoff.After(attempt, 20*time.Millisecond, 2*time.Second))); err != nil {
			return runner.Result{}, fmt.Errorf("%s: %w", c.what, err)
		}
	}
}

func (d *Driver) runOnce(ctx context.Context, c call) (runner.Result, error) {
	if err := d.cleanHome(); err != nil {
		return runner.Result{}, fmt.Errorf("%s: %w", c.what, err)
	}
	res, err := d.runner.Run(ctx, d.command(c))
	if err != nil {
		return res, explain(c, res, err)
	}
	return res, nil
}

// checkName returns an error unless name is a name that a Bottle's machine can
// have: the Driver does not act on other machines.
func checkName(name string) error {
	if !cgroup.ValidID(name) {
		return fmt.Errorf("machine %q is not a bottle's: %w", name, host.ErrInvalid)
	}
	return nil
}

// prepare creates smolvm's home. The users that the VMMs run as can traverse its
// folders, except the one of the database, which holds every env value in clear
// text.
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
		{home + "/.cache/smolvm", 0o711},
		{filepath.Join(home, vmsDir), 0o711},
		{filepath.Join(home, archivesDir), 0o711},
	} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("create smolvm's home: %w: %w", host.ErrUnavailable, err)
		}
		if err := os.Chmod(dir.path, dir.mode); err != nil {
			return fmt.Errorf("create smolvm's home: %w: %w", host.ErrUnavailable, err)
		}
	}
	if err := d.removeSnapshots(); err != nil {
		return fmt.Errorf("create smolvm's home: %w: %w", host.ErrUnavailable, err)
	}
	// Otherwise smolvm records its usage in a file.
	if _, err := atomicfile.WriteIfChanged(home+"/.config/smolvm/config.toml", []byte("[usage]\nrecord = false\n"), 0o644); err != nil {
		return fmt.Errorf("create smolvm's home: %w: %w", host.ErrUnavailable, err)
	}
	d.prepared = true
	return nil
}
