// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// machineTerminal gives commands a terminal. The env of the machine has LINES, which stty
// believes more than the terminal.
func machineTerminal(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	m.start(t)
	var out strings.Builder
	sizes := make(chan host.WindowSize, 1)
	sizes <- host.WindowSize{Columns: 103, Rows: 41}
	code, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{
		Command: []string{"sh", "-c", "unset LINES; stty size; exit 5"}, Stdout: &out, TTY: true, Resize: sizes, Timeout: 2 * time.Minute,
	})
	if got := strings.TrimSpace(out.String()); err != nil || code != 5 || got != "41 103" {
		t.Errorf("size at the start: got %q, %d, %v, want 41 103 and exit code 5", got, code, err)
	}

	in, keys := io.Pipe()
	defer keys.Close()
	lines := newLines()
	go func() {
		sizes <- host.WindowSize{Columns: 80, Rows: 24}
		if lines.wait("up") {
			sizes <- host.WindowSize{Columns: 90, Rows: 26}
			lines.wait("resized")
		}
		_, _ = io.WriteString(keys, "typed\n")
	}()
	const script = `unset LINES; echo up; while [ "$(stty size)" != "26 90" ]; do sleep 0.1; done; echo resized; read line; echo "got $line"; exit 6`
	code, err = f.Machines.Exec(ctx, m.name, host.ExecRequest{
		Command: []string{"sh", "-c", script}, Stdin: in, Stdout: lines, TTY: true, Resize: sizes, Timeout: time.Minute,
	})
	if err != nil || code != 6 || !strings.Contains(lines.String(), "got typed") {
		t.Errorf("resized: got %q, %d, %v, want the new size, what was typed and exit code 6", lines, code, err)
	}
	if code, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: []string{"true"}, TTY: true, Timeout: 2 * time.Minute}); err != nil || code != 0 {
		t.Errorf("without sizes or output: got %d, %v, want 0", code, err)
	}
}

// lines collects output.
type lines struct {
	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{}
}

func newLines() *lines { return &lines{changed: make(chan struct{}, 1)} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// wait waits for a text and reports whether it came.
func (l *lines) wait(text string) bool {
	timeout := time.After(time.Minute)
	for !strings.Contains(l.String(), text) {
		select {
		case <-l.changed:
		case <-timeout:
			return false
		}
	}
	return true
}

// machineLogs reads the log of a command, whatever state the machine is in.
func machineLogs(t *testing.T, f MachinesFixture) {
	ctx := t.Context()
	if v, err := f.Machines.Version(ctx); err != nil || !v.Command {
		t.Skipf("this release runs no command (%v)", err)
	}
	m := newMachine(t, f)
	open := func(log host.MachineLog, generation int) error {
		file, err := f.Machines.OpenLog(ctx, m.name, log, generation)
		if err == nil {
			file.Close()
		}
		return err
	}
	wantKind(t, "log of no machine", open(host.WorkloadLog, 0), host.ErrNotFound)
	m.spec.Command = []string{"sh", "-c", "echo the workload speaks"}
	m.create(t)
	m.start(t)
	read := func() string {
		file, err := f.Machines.OpenLog(ctx, m.name, host.WorkloadLog, 0)
		if errors.Is(err, host.ErrNotFound) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, info.Size())
		n, err := file.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	const want = "the workload speaks\n"
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(read(), want); {
		if time.Now().After(deadline) {
			t.Fatalf("log: got %q, want %q in it", read(), want)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if freed, err := f.Machines.BoundLogs(ctx, m.name, 1<<20); err != nil || freed != 0 {
		t.Errorf("bound a short log: got %d, %v, want nothing freed", freed, err)
	}
	if err := f.Machines.StopMachine(ctx, m.name); err != nil {
		t.Fatal(err)
	}
	if got := read(); !strings.Contains(got, want) {
		t.Errorf("stopped: got %q, want %q in it", got, want)
	}
	wantKind(t, "no such generation", open(host.WorkloadLog, 1), host.ErrNotFound)
	wantKind(t, "generation -1", open(host.WorkloadLog, -1), host.ErrInvalid)
	wantKind(t, "generation 10", open(host.WorkloadLog, host.MaxLogGenerations), host.ErrInvalid)
	wantKind(t, "unknown log", open("../../etc/passwd", 0), host.ErrInvalid)
	if _, err := f.Machines.OpenLog(ctx, "../"+m.name, host.WorkloadLog, 0); !errors.Is(err, host.ErrInvalid) {
		t.Errorf("a path: got %v, want ErrInvalid", err)
	}
	if err := f.Machines.DeleteMachine(ctx, m.name); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "log of a deleted machine", open(host.WorkloadLog, 0), host.ErrNotFound)
}
