// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// logs are the files of one log of a machine, the newest first. They are in memory.
type logs map[host.MachineLog][]*os.File

// AppendLog adds text to a log of a machine.
func (f *Machines) AppendLog(name string, log host.MachineLog, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[name]
	if m == nil {
		return fmt.Errorf("machine %s: %w", name, host.ErrNotFound)
	}
	return m.log(log, text)
}

// log adds text to a log. The caller holds the lock.
func (m *machine) log(log host.MachineLog, text string) error {
	if m.logs == nil {
		m.logs = logs{}
	}
	if len(m.logs[log]) == 0 {
		if err := m.logs.rotate(log); err != nil {
			return err
		}
	}
	_, err := m.logs[log][0].WriteString(text)
	return err
}

// RotateLog begins a new file of a log of a machine.
func (f *Machines) RotateLog(name string, log host.MachineLog) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[name]
	if m == nil {
		return fmt.Errorf("machine %s: %w", name, host.ErrNotFound)
	}
	return m.logs.rotate(log)
}

func (l logs) rotate(log host.MachineLog) error {
	fd, err := unix.MemfdCreate(string(log), unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	l[log] = append([]*os.File{os.NewFile(uintptr(fd), string(log))}, l[log]...)
	return nil
}

// OpenLog implements host.Machines.
func (f *Machines) OpenLog(ctx context.Context, name string, log host.MachineLog, generation int) (host.LogFile, error) {
	var file host.LogFile
	err := f.call(ctx, "OpenLog "+name, func() error {
		if log != host.WorkloadLog && log != host.ConsoleLog || generation < 0 || generation >= host.MaxLogGenerations || !strings.HasPrefix(name, "bottle-") {
			return fmt.Errorf("log %q of machine %s: %w", log, name, host.ErrInvalid)
		}
		m := f.machines[name]
		if m == nil || len(m.logs[log]) <= generation {
			return fmt.Errorf("log %s of machine %s: %w", log, name, host.ErrNotFound)
		}
		opened, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", m.logs[log][generation].Fd()))
		file = opened
		return err
	})
	return file, err
}

// BoundLogs implements host.Machines.
func (f *Machines) BoundLogs(ctx context.Context, name string, limit int64) (freed int64, err error) {
	err = f.call(ctx, "BoundLogs "+name, func() error {
		m := f.machines[name]
		if m == nil {
			return nil
		}
		for _, files := range m.logs {
			var st unix.Stat_t
			if err := unix.Fstat(int(files[0].Fd()), &st); err != nil {
				return err
			}
			if st.Blocks*512 <= limit {
				continue
			}
			end := (st.Size - limit/2) &^ 4095
			if err := unix.Fallocate(int(files[0].Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, end); err != nil {
				return err
			}
			freed += end
		}
		return nil
	})
	return freed, err
}
