// SPDX-License-Identifier: Apache-2.0

// Package boottrial finds out whether this node boots microVMs, by booting a small one: on
// some hosts, /dev/kvm opens and responds, but no guest ever runs. It does so once each
// time the node has booted, and keeps the verdict in a file.
//
// The machine has a home of smolvm to itself, so that it is not among the Bottles'
// machines, and a network namespace in which there is no link. It runs nothing but true.
// Whoever starts the next trial removes what a crash left of it.
package boottrial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/smolfile"
)

// Bounds of a trial.
const (
	// trialTimeout is longer than two starts with the agent's default --start-timeout.
	trialTimeout = 15 * time.Minute
	execTimeout  = time.Minute
	// cleanupTimeout bounds the cleanup after the caller's context has ended.
	cleanupTimeout = 2 * time.Minute
	// starts is how often a machine is started before it counts as not booting: on a busy
	// node, one start may take too long.
	starts = 2
	// maxVerdict bounds the file with the verdict, and maxProblem an error's text in it.
	maxVerdict = 16 << 10
	maxProblem = 1 << 10
)

// Name is the name of the trial's machine, and of its cgroup.
var Name = owner.ID()

var owner = host.Owner{UID: "00000000-0000-0000-0000-000000000000", Slug: "boot-trial", Name: "boot-trial"}

// size is the size of the trial's machine. Its disks are sparse.
var size = machinesize.Size{CPUs: 1, MemoryMiB: 256}

// Machines is the part of host.Machines that a trial needs.
type Machines interface {
	Version(ctx context.Context) (host.SmolvmVersion, error)
	CreateMachine(ctx context.Context, spec host.MachineSpec) error
	StartMachine(ctx context.Context, name, netns string) error
	Exec(ctx context.Context, name string, req host.ExecRequest) (int, error)
	DeleteMachine(ctx context.Context, name string) error
}

// Options of a Trial. All are required.
type Options struct {
	// Dir is the trial's folder.
	Dir string
	// Machines returns smolvm with a home that only the trial uses.
	Machines func(home string) Machines
	// BootID returns what identifies the boot of the node.
	BootID func() (string, error)
	// Isolate returns the path of a network namespace without links, which exists until
	// release is called.
	Isolate func() (path string, release func(), err error)
}

// Trial is the trial of one node.
type Trial struct{ Options }

// New returns a Trial. It has no side effects.
func New(o Options) *Trial { return &Trial{Options: o} }

// State is what is known about the current boot of the node.
type State int

// The states.
const (
	// Untried: no trial has ended since the node booted.
	Untried State = iota
	// Booted: a microVM booted.
	Booted
	// Failed: no microVM booted.
	Failed
)

// verdict is the content of the file.
type verdict struct {
	BootID string    `json:"bootID"`
	Smolvm string    `json:"smolvm"`
	Booted bool      `json:"booted"`
	At     time.Time `json:"at"`
	// Problem says why no microVM booted.
	Problem string `json:"problem,omitempty"`
}

func (t *Trial) verdictFile() string { return filepath.Join(t.Dir, "verdict.json") }
func (t *Trial) home() string        { return filepath.Join(t.Dir, "smolvm") }

// State returns the verdict of this boot of the node. message says why it is not Booted.
// It only reads a file.
func (t *Trial) State() (state State, message string) {
	v, err := t.read()
	switch {
	case err != nil:
		return Untried, "no microVM has booted on this node since the node itself booted"
	case !v.Booted:
		return Failed, fmt.Sprintf("a microVM of smolvm %s does not boot on this node (%s): enable nested virtualisation if the node is a virtual machine, "+
			"see what dmesg says about KVM, and then run bottle-operator preflight --boot, which tries again", v.Smolvm, v.Problem)
	}
	return Booted, ""
}

// read returns the verdict of this boot of the node; an error if there is none.
func (t *Trial) read() (verdict, error) {
	id, err := t.BootID()
	if err != nil {
		return verdict{}, err
	}
	f, err := os.Open(t.verdictFile())
	if err != nil {
		return verdict{}, err
	}
	defer f.Close()
	var v verdict
	if err := json.NewDecoder(io.LimitReader(f, maxVerdict)).Decode(&v); err != nil {
		return verdict{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if v.BootID != id {
		return verdict{}, errors.New("the verdict is of an earlier boot of the node")
	}
	return v, nil
}

// ErrInUse means that another process is making a trial.
var ErrInUse = errors.New("another process is making a boot trial")

// Run makes a trial and keeps its verdict. It first removes what an earlier trial left
// behind. The error is nil if there is a verdict, good or bad: State returns it. Otherwise
// nothing was found out, and an earlier verdict stays.
func (t *Trial) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	id, err := t.BootID()
	if err != nil {
		return err
	}
	unlock, err := t.lock()
	if err != nil {
		return err
	}
	defer unlock()
	v, err := t.attempt(ctx)
	if err != nil {
		return err
	}
	v.BootID, v.At = id, time.Now().UTC().Truncate(time.Second)
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("verdict of the boot trial: %w", err)
	}
	return atomicfile.Write(t.verdictFile(), append(b, '\n'), 0o644)
}

// Clean removes what a trial that was interrupted left behind.
func (t *Trial) Clean(ctx context.Context) error {
	if _, err := os.Lstat(t.home()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := t.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return t.remove(ctx, t.Machines(t.home()))
}

// lock keeps other processes from making a trial, because they would use the same home.
func (t *Trial) lock() (unlock func(), err error) {
	// The machine's user must get to its files.
	if err := errors.Join(os.MkdirAll(t.Dir, 0o711), os.Chmod(t.Dir, 0o711)); err != nil {
		return nil, fmt.Errorf("folder of the boot trial: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(t.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("folder of the boot trial: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return func() { f.Close() }, nil
}

// attempt boots a machine and removes it.
func (t *Trial) attempt(ctx context.Context) (v verdict, err error) {
	if err := t.remove(ctx, t.Machines(t.home())); err != nil {
		return v, err
	}
	machines := t.Machines(t.home()) // the home is gone, and each driver makes its own
	defer func() {
		// No verdict counts while something of the trial is left.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, t.remove(ctx, machines))
	}()
	version, err := machines.Version(ctx)
	if err != nil {
		return v, err
	}
	v.Smolvm = version.Version
	if err := t.create(ctx, machines); err != nil {
		return v, err
	}
	netns, release, err := t.Isolate()
	if err != nil {
		return v, err
	}
	defer release()
	for range starts {
		if err = boot(ctx, machines, netns); !errors.Is(err, host.ErrBootFailed) {
			break
		}
	}
	if ctx.Err() != nil {
		return v, ctx.Err() // the trial was interrupted
	}
	switch {
	case errors.Is(err, host.ErrBootFailed):
		v.Problem = shorten(err.Error())
	case err != nil:
		return v, err
	default:
		v.Booted = true
	}
	return v, nil
}

// create creates the machine. It may reach one address, which does not exist.
func (t *Trial) create(ctx context.Context, machines Machines) error {
	text, err := smolfile.Render(smolfile.Smolfile{BundleIP: netip.MustParseAddr("192.0.2.1"), Size: size})
	if err != nil {
		return err
	}
	file := filepath.Join(t.Dir, "Smolfile")
	defer os.Remove(file)
	if err := atomicfile.Write(file, text, 0o600); err != nil {
		return err
	}
	return machines.CreateMachine(ctx, host.MachineSpec{Owner: owner, Size: size, Smolfile: file})
}

// boot starts the machine and runs a command in its guest.
func boot(ctx context.Context, machines Machines, netns string) error {
	if err := machines.StartMachine(ctx, Name, netns); err != nil {
		return err
	}
	code, err := machines.Exec(ctx, Name, host.ExecRequest{Command: []string{"true"}, Stdout: io.Discard, Stderr: io.Discard, Timeout: execTimeout})
	if err == nil && code != 0 {
		err = fmt.Errorf("%w: a command in its guest ended with code %d", host.ErrBootFailed, code)
	}
	return err
}

// remove removes the machine and smolvm's home.
func (t *Trial) remove(ctx context.Context, machines Machines) error {
	if err := machines.DeleteMachine(ctx, Name); err != nil {
		return fmt.Errorf("remove the machine of the boot trial: %w", err)
	}
	if err := os.RemoveAll(t.home()); err != nil {
		return fmt.Errorf("remove the files of the boot trial: %w", err)
	}
	return nil
}

func shorten(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "")
	if len(text) > maxProblem {
		text = strings.ToValidUTF8(text[:maxProblem], "") + "…"
	}
	return text
}
