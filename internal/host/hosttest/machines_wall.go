// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// statNetNS is the identity of a network namespace's file, as the kernel tells
// it; "" is this process's own namespace.
func statNetNS(netns string) host.NetNS {
	if netns == "" {
		netns = "/proc/self/ns/net"
	}
	st, err := os.Stat(netns)
	own, ownErr := os.Stat("/proc/self/ns/net")
	if err != nil || ownErr != nil {
		return host.NetNS{}
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	// They are files of one file system, which has no others.
	if kernel, _ := own.Sys().(*syscall.Stat_t); !ok || kernel == nil || kernel.Dev != sys.Dev {
		return host.NetNS{}
	}
	return host.NetNS{Dev: sys.Dev, Inode: sys.Ino}
}

// ResolveNetNS says which network namespace a path given to StartMachine is,
// in place of the file itself; the zero value is none. "" is the caller's own.
func (f *Machines) ResolveNetNS(resolve func(netns string) host.NetNS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resolve = resolve
}

// NetNS is the path that a machine was last started with.
func (f *Machines) NetNS(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		return m.netns
	}
	return ""
}

// MoveVMM shows a machine's VMM in another network namespace.
func (f *Machines) MoveVMM(name string, to host.NetNS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		m.inside = to
	}
}

// AddVMM gives a machine another VMM, as a start that was killed leaves
// behind. It goes with the next stop, delete or kill.
func (f *Machines) AddVMM(name string, in host.NetNS) host.VMM {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nextPID++
	f.now = f.now.Add(time.Second)
	vmm := host.VMM{Name: name, PID: f.nextPID, StartTime: f.now, NetNS: in}
	if m := f.machines[name]; m != nil {
		m.stray = append(m.stray, vmm)
	}
	return vmm
}

// SetPolicy makes it look as if smolvm had persisted another policy.
func (f *Machines) SetPolicy(name string, p host.Policy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[name]
	if m == nil {
		return
	}
	m.policy = p
	if f.version.PolicyInList {
		m.AllowedCIDRs = p.AllowedCIDRs
	}
}

// Persists makes creates keep another policy than they were asked for, as
// releases have done.
func (f *Machines) Persists(change func(host.Policy) host.Policy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.persists = change
}

// AddDenials is what smolvm refuses the machine from now on.
func (f *Machines) AddDenials(name string, d ...host.Denial) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		m.denials = append(m.denials, d...)
	}
}

// VMMs implements host.Machines.
func (f *Machines) VMMs(ctx context.Context, names []string) (vmms []host.VMM, err error) {
	err = f.call(ctx, "VMMs", func() error {
		for _, name := range names {
			m := f.machines[name]
			if m == nil {
				continue
			}
			if m.PID != 0 {
				vmms = append(vmms, host.VMM{Name: name, PID: m.PID, StartTime: m.StartTime, NetNS: m.inside})
			}
			vmms = append(vmms, m.stray...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return vmms, nil
}

// KillMachine implements host.Machines.
func (f *Machines) KillMachine(ctx context.Context, name string) error {
	return f.call(ctx, "KillMachine "+name, func() error {
		if err := ours(name); err != nil {
			return err
		}
		if m := f.machines[name]; m != nil && (m.PID != 0 || len(m.stray) > 0) {
			m.end()
			m.LastExit = "ended by signal 9"
		}
		return nil
	})
}

// Policy implements host.Machines.
func (f *Machines) Policy(ctx context.Context, name string) (p host.Policy, err error) {
	err = f.call(ctx, "Policy "+name, func() error {
		if err := ours(name); err != nil {
			return err
		}
		m := f.machines[name]
		if m == nil {
			return fmt.Errorf("policy of machine %s: %w", name, host.ErrNotFound)
		}
		p = host.Policy{AllowedCIDRs: slices.Clone(m.policy.AllowedCIDRs), Extra: slices.Clone(m.policy.Extra)}
		return nil
	})
	if err != nil {
		return host.Policy{}, err
	}
	return p, nil
}

// Denials implements host.Machines.
func (f *Machines) Denials(ctx context.Context, name string) (denials []host.Denial, err error) {
	err = f.call(ctx, "Denials "+name, func() error {
		if err := ours(name); err != nil {
			return err
		}
		if !f.version.EgressEvents {
			return fmt.Errorf("denials of machine %s: %w", name, host.ErrUnsupported)
		}
		if m := f.machines[name]; m != nil {
			denials = slices.Clone(m.denials[max(0, len(m.denials)-host.MaxDenials):])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return denials, nil
}

// checkMounts is what smolvm refuses of them.
func checkMounts(mounts []host.Mount) error {
	for _, m := range mounts {
		if st, err := os.Stat(m.Source); err != nil || !st.IsDir() {
			return fmt.Errorf("mount %s: no folder: %w", m.Source, host.ErrInvalid)
		}
		for _, p := range []string{m.Source, m.Target} {
			if !filepath.IsAbs(p) || strings.Contains(p, ":") {
				return fmt.Errorf("mount %q: %w", p, host.ErrInvalid)
			}
		}
	}
	return nil
}

// files reads and writes the files of a guest: its disk, and what is mounted.
func (f *Machines) files(m *machine) (read func(path string) (string, bool), write func(path, content string) error) {
	mounted := func(path string) string {
		for _, x := range m.spec.Mounts {
			if rest, ok := strings.CutPrefix(path, x.Target+"/"); ok {
				return filepath.Join(x.Source, rest)
			}
		}
		return ""
	}
	read = func(path string) (string, bool) {
		if from := mounted(path); from != "" {
			b, err := os.ReadFile(from)
			return string(b), err == nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		s, ok := m.disk[path]
		return s, ok
	}
	write = func(path, content string) error {
		if mounted(path) != "" {
			return fmt.Errorf("can't create %s: Read-only file system", path)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		m.disk[path] = content
		return nil
	}
	return read, write
}
