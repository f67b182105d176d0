// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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

// RotateLog rotates a log of a machine as smolvm does: it copies the newest file and then
// empties it.
func (f *Machines) RotateLog(name string, log host.MachineLog) error {
	return f.changeLog(name, func(m *machine) error {
		if err := m.logs.copy(log); err != nil {
			return err
		}
		newest := m.logs[log][0]
		_, err := newest.Seek(0, io.SeekStart)
		return errors.Join(err, newest.Truncate(0))
	})
}

// CopyLog does the first half of what RotateLog does.
func (f *Machines) CopyLog(name string, log host.MachineLog) error {
	return f.changeLog(name, func(m *machine) error { return m.logs.copy(log) })
}

// ReplaceLog begins a new file of a log of a machine, and keeps the one before it.
func (f *Machines) ReplaceLog(name string, log host.MachineLog) error {
	return f.changeLog(name, func(m *machine) error { return m.logs.rotate(log) })
}

func (f *Machines) changeLog(name string, change func(m *machine) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.machines[name]
	if m == nil {
		return fmt.Errorf("machine %s: %w", name, host.ErrNotFound)
	}
	return change(m)
}

// keptCopies is how many copies smolvm keeps.
const keptCopies = 3

// copy puts a copy of the newest file after it.
func (l logs) copy(log host.MachineLog) error {
	newest := l[log][0]
	fd, err := unix.MemfdCreate(string(log), unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	duplicate := os.NewFile(uintptr(fd), string(log))
	l[log] = slices.Insert(l[log], 1, duplicate)
	l[log] = l[log][:min(len(l[log]), 1+keptCopies)]
	info, err := newest.Stat()
	if err != nil {
		return err
	}
	_, err = io.Copy(duplicate, io.NewSectionReader(newest, 0, info.Size()))
	return err
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
