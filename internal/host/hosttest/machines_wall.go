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

// statNetNS returns the identity of a network namespace's file, or zero if the
// file is not one. "" is this process's own namespace.
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
	// Namespaces are the only files in their file system.
	if kernel, _ := own.Sys().(*syscall.Stat_t); !ok || kernel == nil || kernel.Dev != sys.Dev {
		return host.NetNS{}
	}
	return host.NetNS{Dev: sys.Dev, Inode: sys.Ino}
}

// ResolveNetNS makes StartMachine use resolve, instead of the file itself, to find
// the network namespace of a path. The zero value means that the path is not a
// namespace. The path "" is the caller's own namespace.
func (f *Machines) ResolveNetNS(resolve func(netns string) host.NetNS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resolve = resolve
}

// NetNS returns the netns path of a machine's last start.
func (f *Machines) NetNS(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		return m.netns
	}
	return ""
}

// MoveVMM moves a machine's VMM to another network namespace.
func (f *Machines) MoveVMM(name string, to host.NetNS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		m.inside = to
	}
}

// AddVMM gives a machine another VMM, like one that a killed start leaves behind.
// The next stop, delete or kill ends it.
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

// SetPolicy changes the policy that smolvm has persisted.
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

// OverridePolicy makes CreateMachine persist another policy than the requested one, as
// some releases of smolvm did.
func (f *Machines) OverridePolicy(change func(host.Policy) host.Policy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.persists = change
}

// AddDenials adds connections that smolvm has refused the machine.
func (f *Machines) AddDenials(name string, d ...host.Denial) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.machines[name]; m != nil {
		m.denials = append(m.denials, d...)
	}
}

// Lives implements host.Machines.
func (f *Machines) Lives(ctx context.Context, name string) (lives bool, err error) {
	err = f.call(ctx, "Lives", func() error {
		m := f.machines[name]
		lives = m != nil && (m.PID != 0 || len(m.stray) > 0)
		return nil
	})
	return lives, err
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
		if err := checkName(name); err != nil {
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
		if err := checkName(name); err != nil {
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
		if err := checkName(name); err != nil {
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

// checkMounts refuses the mounts that smolvm refuses.
func checkMounts(mounts []host.Mount) error {
	for _, m := range mounts {
		if st, err := os.Stat(m.Source); err != nil || !st.IsDir() {
			return fmt.Errorf("mount %s: not a folder: %w", m.Source, host.ErrInvalid)
		}
		for _, p := range []string{m.Source, m.Target} {
			if !filepath.IsAbs(p) || strings.Contains(p, ":") {
				return fmt.Errorf("mount %q: %w", p, host.ErrInvalid)
			}
		}
	}
	return nil
}

// files returns functions that read and write the files of a guest: those on its
// disk and those in its mounts.
func (f *Machines) files(m *machine) (read func(path string) (string, bool), write func(path, content string) error) {
	mounted := func(path string) (source string, writable bool) {
		for _, x := range m.spec.Mounts {
			if rest, ok := strings.CutPrefix(path, x.Target+"/"); ok {
				return filepath.Join(x.Source, rest), x.Writable
			}
		}
		return "", false
	}
	read = func(path string) (string, bool) {
		if from, _ := mounted(path); from != "" {
			b, err := os.ReadFile(from)
			return string(b), err == nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		s, ok := m.disk[path]
		return s, ok
	}
	write = func(path, content string) error {
		if to, writable := mounted(path); writable {
			return os.WriteFile(to, []byte(content), 0o600)
		} else if to != "" {
			return fmt.Errorf("can't create %s: Read-only file system", path)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		m.disk[path] = content
		return nil
	}
	return read, write
}
