// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

const logMachine = "bottle-demo-1a2b3c4d"

// logDriver returns a Driver and the folder of logMachine.
func logDriver(t *testing.T) (d *Driver, dir string) {
	t.Helper()
	d = New(Options{Dir: "/nonexistent", Home: t.TempDir()})
	dir = d.dataDir(logMachine)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return d, dir
}

func TestBoundLogs(t *testing.T) {
	d, dir := logDriver(t)
	file := filepath.Join(dir, "workload.log")
	line := []byte("0123456789abcdef0123456789abcde\n")
	if err := os.WriteFile(file, bytes.Repeat(line, 3<<20/len(line)), 0o644); err != nil {
		t.Fatal(err)
	}
	follower, err := d.OpenLog(t.Context(), logMachine, host.WorkloadLog, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Close()
	for _, limit := range []int64{4 << 20, 1 << 20} {
		freed, err := d.BoundLogs(t.Context(), logMachine, limit)
		if err != nil || (freed >= 2<<20) != (limit == 1<<20) {
			t.Errorf("limit %d of 3 MiB: got %d freed, %v", limit, freed, err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, used, err := extent(f)
	if err != nil || size != 3<<20 || used > 1<<20 {
		t.Errorf("afterwards: got %d bytes of which %d are on the disk, %v, want 3 MiB and at most 1 MiB", size, used, err)
	}
	last := make([]byte, 256<<10)
	if _, err := follower.ReadAt(last, size-int64(len(last))); err != nil || !bytes.Equal(last, bytes.Repeat(line, len(last)/len(line))) {
		t.Errorf("the end of the log: got %.50q, %v, want it as it was", last, err)
	}
	if freed, err := d.BoundLogs(t.Context(), logMachine, 1<<20); err != nil || freed != 0 {
		t.Errorf("again: got %d freed, %v, want nothing to do", freed, err)
	}
}

// TestLogsOfHostileMachine replaces a log with what its user can make.
func TestLogsOfHostileMachine(t *testing.T) {
	for name, plant := range map[string]func(file, other string) error{
		"link":           func(file, other string) error { return os.Symlink(other, file) },
		"FIFO":           func(file, _ string) error { return syscall.Mkfifo(file, 0o666) },
		"folder":         func(file, _ string) error { return os.Mkdir(file, 0o777) },
		"socket":         func(file, _ string) error { return syscall.Mknod(file, syscall.S_IFSOCK|0o666, 0) },
		"second name":    func(file, other string) error { return os.Link(other, file) },
		"link of folder": func(file, other string) error { return os.Symlink(filepath.Dir(other), file) },
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := logDriver(t)
			other := filepath.Join(t.TempDir(), "other")
			content := bytes.Repeat([]byte("secret\n"), 1<<20)
			if err := os.WriteFile(other, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := plant(filepath.Join(dir, "workload.log"), other); err != nil {
				t.Fatal(err)
			}
			f, err := d.OpenLog(t.Context(), logMachine, host.WorkloadLog, 0)
			if err == nil {
				f.Close()
			}
			if !errors.Is(err, host.ErrInvalid) {
				t.Errorf("open: got %v, want ErrInvalid", err)
			}
			if _, err := d.BoundLogs(t.Context(), logMachine, 1<<20); err == nil {
				t.Error("bound: got nil, want an error")
			}
			if got, err := os.ReadFile(other); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the other file: got %d bytes, %v, want it unchanged", len(got), err)
			}
		})
	}
}
