// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// ReferenceVersion is the default version of a Machines.
var ReferenceVersion = host.SmolvmVersion{
	Version: "1.32.2", LocalImages: true, SecretFiles: true, Labels: true, Command: true,
	PolicyInList: true, EgressEvents: true, Artifacts: true, ArtifactPolicy: true, OwnUser: true, Sessions: 32, Backend: "virtio-net",
}

// Machines is an in-memory fake of host.Machines. It reads no files of the
// computer that it runs on except those that a spec names, as smolvm does. A
// guest is a map of files and a few commands (see Exec).
type Machines struct {
	Faults *Faults

	mu       sync.Mutex
	version  host.SmolvmVersion
	machines map[string]*machine
	leftover map[string]bool // machines without a record that still have data, by name
	nextPID  int
	now      time.Time
	onExec   func(name string, req host.ExecRequest) (int, error)
	resolve  func(netns string) host.NetNS
	persists func(host.Policy) host.Policy
}

// machine is one machine of the fake.
type machine struct {
	host.Machine
	spec     host.MachineSpec
	starts   int
	env      []string          // from the Smolfile
	launched []string          // env and secrets of the last start
	disk     map[string]string // survives stop and start
	ended    chan struct{}     // closed when the VMM of the last start ends
	netns    string            // the path of the last start
	inside   host.NetNS        // the namespace of its VMM
	stray    []host.VMM        // additional VMMs
	policy   host.Policy
	denials  []host.Denial
	logs     logs
	diskless bool // it was created only half way, and cannot boot
}

// observed returns the machine as host.Machines reports it: it has a PID only
// while it runs.
func (m *machine) observed() host.Machine {
	out := m.Machine
	out.AllowedCIDRs = slices.Clone(out.AllowedCIDRs)
	if out.State != host.MachineRunning {
		out.PID, out.StartTime = 0, time.Time{}
	}
	return out
}

var _ host.Machines = (*Machines)(nil)

// NewMachines returns a fake smolvm without machines, of version Reference. The
// faults may be shared with other fakes; nil means none.
func NewMachines(f *Faults) *Machines {
	return &Machines{
		Faults:   cmp.Or(f, &Faults{}),
		version:  ReferenceVersion,
		machines: map[string]*machine{},
		leftover: map[string]bool{},
		nextPID:  4000,
		resolve:  statNetNS,
		now:      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

// SetVersion changes the release of smolvm.
func (f *Machines) SetVersion(v host.SmolvmVersion) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version = v
}

// Add adds a foreign machine: one that CreateMachine did not create.
func (f *Machines) Add(m host.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.machines[m.Name] = &machine{Machine: m, disk: map[string]string{}, ended: make(chan struct{})}
}

// Kill kills a machine's VMM as kill -9 does: the machine is stopped, the
// watchers are notified, and LastExit says what happened.
func (f *Machines) Kill(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil && m.PID != 0 {
		m.end()
		m.LastExit = "ended by signal 9"
	}
}

// SetState changes the reported state of a machine, but not its VMM.
func (f *Machines) SetState(name string, s host.MachineState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		m.State = s
	}
}

// OnExec makes answer handle every later Exec in place of the fake's own guest.
func (f *Machines) OnExec(answer func(name string, req host.ExecRequest) (int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onExec = answer
}

// Get returns a machine and its spec. It returns false when there is no machine
// with that name.
func (f *Machines) Get(name string) (host.Machine, host.MachineSpec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[name]
	if m == nil {
		return host.Machine{}, host.MachineSpec{}, false
	}
	return m.observed(), m.spec, true
}

// Names returns the names of all machines, sorted.
func (f *Machines) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.machines))
}

// Leftovers returns the names of the machines that have no record but still have
// data on the node, sorted. DeleteMachine removes the data.
func (f *Machines) Leftovers() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.leftover))
}

// StoredEnv returns the env with which a machine was created, as smolvm stores it.
func (f *Machines) StoredEnv(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		return slices.Clone(m.env)
	}
	return nil
}

// Starts returns how often a machine was booted.
func (f *Machines) Starts(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		return m.starts
	}
	return 0
}

// GuestEnv returns the environment that a machine's last start gave its guest.
func (f *Machines) GuestEnv(name string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		return slices.Clone(m.launched)
	}
	return nil
}

// Version implements host.Machines.
func (f *Machines) Version(ctx context.Context) (v host.SmolvmVersion, err error) {
	err = f.call(ctx, "Version", func() error { v = f.version; return nil })
	return v, err
}

// ListMachines implements host.Machines.
func (f *Machines) ListMachines(ctx context.Context) (list []host.Machine, err error) {
	err = f.call(ctx, "ListMachines", func() error {
		for _, name := range slices.Sorted(maps.Keys(f.machines)) {
			list = append(list, f.machines[name].observed())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// ArtifactCommand implements host.Machines. The fake's artifacts have no command.
func (f *Machines) ArtifactCommand(ctx context.Context, path string) ([]string, error) {
	return nil, f.call(ctx, "ArtifactCommand "+filepath.Base(path), func() error { return nil })
}

// CreateMachine implements host.Machines.
func (f *Machines) CreateMachine(ctx context.Context, spec host.MachineSpec) error {
	name := spec.Owner.ID()
	create := func() error { return f.create(name, spec) }
	return f.callSteps(ctx, "CreateMachine "+name, steps{whole: create, half: func() error {
		if err := create(); err != nil {
			return err
		}
		f.machines[name].diskless = true
		return nil
	}})
}

// create does the work of CreateMachine. The caller holds the lock.
func (f *Machines) create(name string, spec host.MachineSpec) error {
	if err := f.checkSupported(spec); err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	if f.machines[name] != nil {
		return fmt.Errorf("create machine %s: it already exists: %w", name, host.ErrConflict)
	}
	file, err := f.content(spec)
	if err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	if err := checkMounts(spec.Mounts); err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	f.now = f.now.Add(time.Second)
	image, err := imageName(spec.Image)
	if err != nil {
		return fmt.Errorf("create machine %s: %w", name, err)
	}
	m := &machine{spec: spec, env: file.Env, disk: map[string]string{}, ended: make(chan struct{})}
	m.Machine = host.Machine{
		Name: name, Image: image, State: host.MachineCreated,
		CPUs: cmp.Or(spec.CPUs, file.CPUs, 4), MemoryMiB: cmp.Or(spec.MemoryMiB, file.MemoryMiB, 8192),
	}
	if f.version.Labels {
		m.UID = spec.Owner.UID
	}
	if f.version.PolicyInList {
		m.AllowedCIDRs = file.Network.AllowCIDRs
	}
	m.policy.AllowedCIDRs = file.Network.AllowCIDRs
	if f.persists != nil {
		m.policy = f.persists(m.policy)
		if f.version.PolicyInList {
			m.AllowedCIDRs = m.policy.AllowedCIDRs
		}
	}
	f.machines[name] = m
	delete(f.leftover, name) // a new machine does not get old data
	return nil
}

func (f *Machines) checkSupported(s host.MachineSpec) error {
	if s.Image != "" && s.Artifact == "" && !f.version.LocalImages ||
		len(s.Secrets) > 0 && (s.Artifact != "" || !f.version.SecretFiles) || s.Command != nil && !f.version.Command {
		return host.ErrUnsupported
	}
	for _, p := range s.Secrets {
		if !filepath.IsAbs(p.Path) {
			return host.ErrInvalid
		}
	}
	return nil
}

// checkName refuses names that no Bottle's machine can have.
func checkName(name string) error {
	if !strings.HasPrefix(name, "bottle-") {
		return fmt.Errorf("machine %q is not a bottle's: %w", name, host.ErrInvalid)
	}
	return nil
}

// call records a call and runs its effect under the fake's lock.
func (f *Machines) call(ctx context.Context, call string, effect func() error) error {
	return f.callSteps(ctx, call, steps{whole: effect})
}

// callSteps does the same as call for a call that can also fail half way.
func (f *Machines) callSteps(ctx context.Context, call string, s steps) error {
	return f.Faults.aroundSteps(call, s.under(ctx, &f.mu))
}
