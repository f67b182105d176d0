// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// StartMachine implements host.Machines. ResolveNetNS decides which files are
// network namespaces.
func (f *Machines) StartMachine(ctx context.Context, name, netns string) error {
	start := func() error { return f.start(name, netns) }
	// Half way, the VMM is up, but the caller gets an error.
	return f.callSteps(ctx, "StartMachine "+name, steps{whole: start, half: start})
}

// start does the work of StartMachine. The caller holds the lock.
func (f *Machines) start(name, netns string) error {
	if err := checkName(name); err != nil {
		return err
	}
	m := f.machines[name]
	switch {
	case m == nil:
		return fmt.Errorf("start machine %s: %w", name, host.ErrNotFound)
	case m.State == host.MachineRunning:
		return nil
	case m.State == host.MachineUnreachable:
		return fmt.Errorf("start machine %s: it is unreachable; stop it first: %w", name, host.ErrUnavailable)
	}
	if m.diskless {
		return fmt.Errorf("start machine %s: %w: its disk is missing", name, host.ErrBootFailed)
	}
	inside := f.resolve(netns)
	if inside == (host.NetNS{}) {
		return fmt.Errorf("start machine %s: %w: %q is not a network namespace", name, host.ErrUnavailable, netns)
	}
	launched, err := m.launch()
	if err != nil {
		return fmt.Errorf("start machine %s: %w", name, err)
	}
	f.nextPID++
	f.now = f.now.Add(time.Second)
	m.launched, m.ended, m.State = launched, make(chan struct{}), host.MachineRunning
	m.PID, m.StartTime, m.LastExit = f.nextPID, f.now, ""
	m.netns, m.inside = netns, inside
	m.starts++
	return m.speak()
}

// speak runs the machine's command if it is an echo in a shell. Its output goes to the
// log.
func (m *machine) speak() error {
	argv := m.spec.Command
	if len(argv) != 3 || argv[0] != "sh" || !strings.HasPrefix(argv[2], "echo ") {
		return nil
	}
	return m.log(host.WorkloadLog, strings.TrimPrefix(argv[2], "echo ")+"\n")
}

// launch returns the environment that a start gives the guest.
func (m *machine) launch() ([]string, error) {
	env := slices.Clone(m.env)
	for _, s := range m.spec.Secrets {
		b, err := os.ReadFile(s.Path)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w: %w", s.Name, host.ErrBootFailed, err)
		}
		env = append(env, s.Name+"="+strings.TrimRight(string(b), "\r\n"))
	}
	return env, nil
}

// end ends every VMM of the machine.
func (m *machine) end() {
	m.stray = nil
	if m.PID == 0 {
		return
	}
	close(m.ended)
	m.State, m.PID, m.StartTime = host.MachineStopped, 0, time.Time{}
}

// StopMachine implements host.Machines.
func (f *Machines) StopMachine(ctx context.Context, name string) error {
	return f.call(ctx, "StopMachine "+name, func() error {
		if err := checkName(name); err != nil {
			return err
		}
		if m := f.machines[name]; m != nil {
			m.end()
		}
		return nil
	})
}

// DeleteMachine implements host.Machines.
func (f *Machines) DeleteMachine(ctx context.Context, name string) error {
	remove := func() error {
		if err := checkName(name); err != nil {
			return err
		}
		if m := f.machines[name]; m != nil {
			m.end()
			delete(f.machines, name)
		}
		delete(f.leftover, name)
		return nil
	}
	return f.callSteps(ctx, "DeleteMachine "+name, steps{whole: remove, half: func() error {
		had := f.machines[name] != nil
		if err := remove(); err != nil {
			return err
		}
		if had {
			f.leftover[name] = true
		}
		return nil
	}})
}

// WatchExit implements host.Machines.
func (f *Machines) WatchExit(ctx context.Context, m host.Machine, exited func(name string)) error {
	var ended chan struct{}
	err := f.call(ctx, "WatchExit "+m.Name, func() error {
		if m.PID <= 0 {
			return fmt.Errorf("watch machine %s: %w", m.Name, host.ErrNotRunning)
		}
		have := f.machines[m.Name]
		if have != nil && have.PID == m.PID && have.StartTime.Equal(m.StartTime) {
			ended = have.ended
		}
		return nil
	})
	if err != nil {
		return err
	}
	go func() {
		if ended != nil {
			select {
			case <-ended:
			case <-ctx.Done():
				return
			}
		}
		exited(m.Name)
	}()
	return nil
}

// Exec implements host.Machines. The fake's guest has these commands:
//   - true, false, sync and `sleep N`
//   - `cat` and `cat FILE`, for copied files and /proc/self/environ
//   - `sh -c SCRIPT` with one of the scripts "exit N", "kill -9 $$", "cat >FILE"
//     and "echo TEXT", which "; exit N" may follow
//   - copied files that contain such a script
//   - copied programs, which behave like busybox and run their first argument
//
// Any other command does not exist: its exit code is 255.
func (f *Machines) Exec(ctx context.Context, name string, req host.ExecRequest) (int, error) {
	if len(req.Command) == 0 {
		return 0, fmt.Errorf("exec in machine %s: no command: %w", name, host.ErrInvalid)
	}
	var g guest
	err := f.call(ctx, "Exec "+name, func() error {
		m, err := f.running(name)
		if err != nil {
			return err
		}
		g = guest{env: slices.Clone(m.launched), answer: f.onExec}
		g.read, g.write = f.files(m)
		return nil
	})
	if err != nil {
		return 0, err
	}
	if g.answer != nil {
		return g.answer(name, req)
	}
	return g.run(ctx, req)
}

func (f *Machines) running(name string) (*machine, error) {
	m := f.machines[name]
	if m == nil {
		return nil, fmt.Errorf("machine %s: %w", name, host.ErrNotFound)
	}
	if m.State != host.MachineRunning {
		return nil, fmt.Errorf("machine %s is %s: %w", name, m.State, host.ErrNotRunning)
	}
	return m, nil
}

// Copy implements host.Machines.
func (f *Machines) Copy(ctx context.Context, name, from, to string) error {
	return f.call(ctx, "Copy "+name, func() error {
		m, err := f.running(name)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("copy into machine %s: %w", name, err)
		}
		m.disk[to] = string(b)
		return nil
	})
}
