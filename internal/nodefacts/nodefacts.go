// SPDX-License-Identifier: Apache-2.0

// Package nodefacts checks whether a node can run bottles: smolvm and its files,
// docker, KVM, cgroups, and the path to the state directory. The message of each
// failing fact says what to do about it.
//
// The package changes nothing and starts no machine. Whether a machine would boot, which
// an open KVM device does not prove, is a fact that its caller adds.
package nodefacts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
)

// Bounds of the check of one fact.
const (
	usualBound = 5 * time.Second
	// versionBound is longer because smolvm starts slowly on an emulated node.
	versionBound = 20 * time.Second
	// runtimeBound is longer than criruntime's own.
	runtimeBound = 10 * time.Second
)

// Options say what to check. All are required but KVMDevice, Boot, NeedsDocker,
// NeedsRuntime, PingRuntime and RuntimeSocket.
type Options struct {
	// SmolvmDir holds smolvm, lib/ and agent-rootfs/.
	SmolvmDir string
	// StateDir is the agent's state directory. The users that machines run as
	// must be able to traverse it.
	StateDir string
	// KVMDevice is /dev/kvm. It is empty on test equipment; KVM is not checked
	// then.
	KVMDevice string
	// GuestProgram is the path of the static bottle-guest that is copied into guests.
	GuestProgram string
	// Version returns smolvm's version.
	Version func(ctx context.Context) (host.SmolvmVersion, error)
	// PingDocker returns nil if docker answers.
	PingDocker func(ctx context.Context) error
	// PingRuntime returns nil if the kubelet's container runtime answers. RuntimeSocket
	// returns its address, which may change until it has answered.
	PingRuntime   func(ctx context.Context) error
	RuntimeSocket func() string
	// NeedsDocker and NeedsRuntime report whether the node needs docker or the container
	// runtime for bundles. What it does not need is no fact, and is not asked. If
	// NeedsDocker is nil, docker is needed; if NeedsRuntime is nil, the container runtime
	// is not.
	NeedsDocker, NeedsRuntime func(ctx context.Context) bool
	// Cgroups returns what the node's cgroups can do.
	Cgroups func() (cgroup.Support, error)
	// Boot returns the fact BootName: whether the node boots machines. It may be nil; then
	// this is not a fact.
	Boot func() host.Fact
}

// Checker implements host.Facts.
type Checker struct {
	opts    Options
	sources []*source // in the order of the facts
}

var _ host.Facts = (*Checker)(nil)

// New returns a Checker.
func New(o Options) *Checker {
	c := &Checker{opts: o}
	plain := func(check func() host.Fact) func(context.Context) host.Fact {
		return func(context.Context) host.Fact { return check() }
	}
	c.sources = []*source{
		{name: smolvmName, bound: usualBound, check: plain(c.binary)},
		{name: versionName, bound: versionBound, check: c.version},
		{name: filesName, bound: usualBound, check: plain(c.files)},
		{name: dockerName, bound: usualBound, check: c.docker, needed: o.NeedsDocker},
		{name: kvmName, bound: usualBound, check: plain(func() host.Fact { return kvmFact(observeKVM(o.KVMDevice)) })},
		{name: cgroupName, bound: usualBound, check: plain(func() host.Fact { return cgroupFact(o.Cgroups()) })},
		{name: stateName, bound: usualBound, check: plain(c.stateDir)},
		{name: guestProgramName, bound: usualBound, check: plain(c.guestProgram)},
	}
	if o.NeedsRuntime != nil {
		c.sources = slices.Insert(c.sources, 4, &source{name: runtimeName, bound: runtimeBound, check: c.runtime, needed: o.NeedsRuntime})
	}
	if o.Boot != nil {
		c.sources = append(c.sources, &source{name: BootName, bound: usualBound, check: plain(o.Boot)})
	}
	return c
}

// NodeFacts implements host.Facts. It checks all facts in parallel. A fact that
// cannot be determined within its bound counts as failing.
func (c *Checker) NodeFacts(ctx context.Context) []host.Fact {
	needed := slices.DeleteFunc(slices.Clone(c.sources), func(s *source) bool { return s.needed != nil && !s.needed(ctx) })
	facts := make([]host.Fact, len(needed))
	var all sync.WaitGroup
	for i, s := range needed {
		all.Go(func() { facts[i] = s.fact(ctx) })
	}
	all.Wait()
	return facts
}

func good(name, note string) host.Fact { return host.Fact{Name: name, OK: true, Message: note} }

func bad(name, format string, args ...any) host.Fact {
	return host.Fact{Name: name, Message: fmt.Sprintf(format, args...)}
}

const (
	smolvmName       = "smolvm"
	versionName      = "smolvm-version"
	filesName        = "smolvm-files"
	dockerName       = "docker"
	runtimeName      = "container-runtime"
	kvmName          = "kvm"
	cgroupName       = "cgroups"
	stateName        = "state-dir"
	guestProgramName = "guest-program"
	// BootName names the fact that says whether the node boots microVMs.
	BootName = "kvm-boot"
)

// IsSmolvm reports whether a fact is about what is in Options.SmolvmDir.
func IsSmolvm(fact string) bool {
	return fact == smolvmName || fact == versionName || fact == filesName
}

// ForMachines reports whether a machine that runs nothing of a user needs what a fact is
// about.
func ForMachines(fact string) bool {
	return fact != dockerName && fact != runtimeName && fact != guestProgramName
}

// IsGuestProgram reports whether a fact is about Options.GuestProgram.
func IsGuestProgram(fact string) bool { return fact == guestProgramName }

// binary checks the smolvm program. Other users must be able to run it too,
// because the VMM is the same program, run again as its own user.
func (c *Checker) binary() host.Fact {
	path := filepath.Join(c.opts.SmolvmDir, "smolvm")
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return bad(smolvmName, "smolvm is not at %s (%s): install it there or set --smolvm-dir", path, reason(err))
	case !st.Mode().IsRegular():
		return bad(smolvmName, "%s is not a file: install smolvm there or set --smolvm-dir", path)
	case st.Mode()&0o005 != 0o005:
		return bad(smolvmName, "%s cannot be run by the users that machines run as (mode %04o): chmod 0755 %s", path, st.Mode().Perm(), path)
	}
	return good(smolvmName, "")
}

func (c *Checker) version(ctx context.Context) host.Fact {
	if !c.binary().OK {
		return bad(versionName, "smolvm is missing or cannot be run")
	}
	return versionFact(c.opts.Version(ctx))
}

func versionFact(v host.SmolvmVersion, err error) host.Fact {
	switch {
	case err != nil:
		return bad(versionName, "smolvm does not report its version: %v", err)
	case v.Older:
		return bad(versionName, "smolvm %s is older than 0.8.0: install 0.8.0 or newer, preferably 1.32.2", v.Version)
	case v.Newer:
		return good(versionName, fmt.Sprintf("smolvm %s is newer than 1.32.2, the newest tested version", v.Version))
	}
	return good(versionName, "")
}

func (c *Checker) docker(ctx context.Context) host.Fact {
	if err := c.opts.PingDocker(ctx); err != nil {
		return bad(dockerName, "docker does not answer (%v): start it, or set --docker-host", err)
	}
	return good(dockerName, "")
}

// runtime checks the container runtime that the kubelet uses.
func (c *Checker) runtime(ctx context.Context) host.Fact {
	err := c.opts.PingRuntime(ctx)
	switch {
	case errors.Is(err, host.ErrUnsupported):
		return bad(runtimeName, "what listens at %s serves no kubelet (%v): if the kubelet's container runtime starts later, it is found by itself at the usual sockets; if it is elsewhere, set --cri-socket; or set --bundle-runtime=docker", c.opts.RuntimeSocket(), err)
	case err != nil:
		return bad(runtimeName, "the container runtime at %s does not answer (%v): start it (systemctl status containerd, crio or k3s), which is noticed by itself; if it listens elsewhere, set --cri-socket", c.opts.RuntimeSocket(), err)
	}
	return good(runtimeName, "at "+c.opts.RuntimeSocket())
}

func (c *Checker) stateDir() host.Fact {
	if closed := firstClosed(c.opts.StateDir); closed != nil {
		return bad(stateName, "%s", closed)
	}
	if err := writable(c.opts.StateDir); err != nil {
		return bad(stateName, "%s cannot be written (%s): make it writable or set --state-dir", c.opts.StateDir, reason(err))
	}
	return good(stateName, "")
}

// guestProgram checks bottle-guest, without which no Bottle can become Ready.
func (c *Checker) guestProgram() host.Fact {
	st, err := os.Stat(c.opts.GuestProgram)
	switch {
	case err != nil:
		return bad(guestProgramName, "bottle-guest is not at %s (%s): install it there or set --guest-program", c.opts.GuestProgram, reason(err))
	case !st.Mode().IsRegular():
		return bad(guestProgramName, "%s is not a file: install bottle-guest there or set --guest-program", c.opts.GuestProgram)
	}
	return good(guestProgramName, "")
}

// reason returns the text of an error without the path, which the message already
// names.
func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}
