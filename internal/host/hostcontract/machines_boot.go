// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

// bootTests need machines that start.
var bootTests = []machineTest{
	{"start, stop, start, delete", machineLife},
	{"env in the guest, byte for byte", machineGuestEnv},
	{"exec", machineExec},
	{"exec streams", machineStreams},
	{"exec in a terminal", machineTerminal},
	{"logs", machineLogs},
	{"copy", machineCopy},
	{"killed VMM", machineKilled},
	{"watch", machineWatch},
	{"three starts in parallel", machineThreeStarts},
	{"missing secret at start", machineMissingSecret},
	{"in its network namespace", machineNetNS},
	{"kill machine", machineKillMachine},
	{"mounts", machineMounts},
	{"writable mount", machineWritableMount},
	{"program", machineProgram},
	{"artifact in the guest", machineArtifactGuest},
}

// bootTries is the number of attempts to boot a machine. On an emulated node one
// boot in six fails.
const bootTries = 5

// start boots the machine. It tries again after ErrBootFailed, because the next
// boot may work.
func (m *testMachine) start(t *testing.T) host.Machine {
	t.Helper()
	return m.startIn(t, "")
}

// startIn does the same as start in a network namespace.
func (m *testMachine) startIn(t *testing.T, netns string) host.Machine {
	t.Helper()
	var err error
	for range bootTries {
		if err = m.f.Machines.StartMachine(t.Context(), m.name, netns); !errors.Is(err, host.ErrBootFailed) {
			break
		}
		t.Logf("start: %v", err)
	}
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	got, _ := m.find(t)
	if got.State != host.MachineRunning || got.PID == 0 || got.StartTime.IsZero() {
		t.Fatalf("started: got %+v, want it running with a process", got)
	}
	return got
}

// exec runs a command, which must succeed, and returns its output.
func (m *testMachine) exec(t *testing.T, command ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	code, err := m.f.Machines.Exec(t.Context(), m.name, host.ExecRequest{Command: command, Stdout: &out, Stderr: &errs, Timeout: 2 * time.Minute})
	if err != nil || code != 0 {
		t.Fatalf("exec %q: got %d, %v, stderr %q, want 0", command, code, err, errs.String())
	}
	return out.String()
}

func machineLife(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	first := m.start(t)
	if again := m.start(t); again.PID != first.PID || !again.StartTime.Equal(first.StartTime) {
		t.Errorf("started again: got process %d of %v, want the same %d of %v", again.PID, again.StartTime, first.PID, first.StartTime)
	}
	m.exec(t, "sh", "-c", "cat >/kept")
	m.exec(t, "sync")
	for range 2 {
		if err := f.Machines.StopMachine(ctx, m.name); err != nil {
			t.Fatalf("stop: %v", err)
		}
		if got, ok := m.find(t); !ok || got.State == host.MachineRunning || got.PID != 0 {
			t.Errorf("stopped: got %+v, want it listed, down and without a process", got)
		}
		for _, left := range f.Leftovers(t, m.name) {
			if strings.HasPrefix(left, "process") {
				t.Errorf("stopped: got %s, want no process", left)
			}
		}
	}
	if second := m.start(t); second.PID == first.PID && second.StartTime.Equal(first.StartTime) {
		t.Error("started after a stop: got the same process, want another")
	}
	m.exec(t, "cat", "/kept") // the disk is the same
	if err := f.Machines.DeleteMachine(ctx, m.name); err != nil {
		t.Fatalf("delete a running machine: %v", err)
	}
	if _, ok := m.find(t); ok {
		t.Error("deleted: got it listed, want not")
	}
	if left := f.Leftovers(t, m.name); len(left) > 0 {
		t.Errorf("deleted: got %q left, want nothing", left)
	}
}

func machineGuestEnv(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	want := slices.Clone(machineEnv)
	const secret = "s3cret \"with\" 'quotes'\nand a line; 🍾"
	v, _ := f.Machines.Version(t.Context())
	if v.SecretFiles {
		// smolvm removes newlines at the end of the file.
		m.spec.Secrets = []host.SecretFile{{Name: "TOKEN", Path: writeFile(t, f, "secret", secret+"\n")}}
		want = append(want, "TOKEN="+secret)
	}
	m.create(t)
	m.start(t)
	got := strings.Split(m.exec(t, "cat", "/proc/self/environ"), "\x00")
	var have []string
	for _, kv := range want {
		name, _, _ := strings.Cut(kv, "=")
		i := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, name+"=") })
		if i >= 0 {
			have = append(have, got[i])
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("env in the guest (-want +got):\n%s", diff)
	}
	if where := f.PlacesContaining(t, "s3cret "); v.SecretFiles && len(where) > 0 {
		t.Errorf("the secret: got it in %q, want it nowhere on the node", where)
	}
}

func machineExec(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	m.start(t)
	for _, tt := range []struct {
		command []string
		code    int
	}{
		{[]string{"true"}, 0},
		{[]string{"false"}, 1},
		{[]string{"sh", "-c", "exit 42"}, 42},
		{[]string{"sh", "-c", "exit 124"}, 124},
		{[]string{"sh", "-c", "echo Error: of my own >&2; exit 1"}, 1},
	} {
		code, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: tt.command, Timeout: 2 * time.Minute})
		if err != nil || code != tt.code {
			t.Errorf("%q: got %d, %v, want %d", tt.command, code, err, tt.code)
		}
	}
	for what, req := range map[string]host.ExecRequest{
		"killed":  {Command: []string{"sh", "-c", "kill -9 $$"}},
		"missing": {Command: []string{"no-such-program"}},
	} {
		if code, err := f.Machines.Exec(ctx, m.name, req); err != nil || code < 126 {
			t.Errorf("%s: got %d, %v, want a code of 126 or higher", what, code, err)
		}
	}
	start := time.Now()
	code, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: []string{"sleep", "600"}, Timeout: time.Second})
	if err != nil || code != 124 || time.Since(start) > 5*time.Minute {
		t.Errorf("timeout: got %d, %v after %v, want 124", code, err, time.Since(start))
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := f.Machines.Exec(short, m.name, host.ExecRequest{Command: []string{"sleep", "600"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("context ended: got %v, want the context's error", err)
	}
	wantKind(t, "no command", func() error { _, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{}); return err }(), host.ErrInvalid)
	m.exec(t, "true") // the guest still works
}

func machineStreams(t *testing.T, f MachinesFixture) {
	m := newMachine(t, f)
	m.create(t)
	m.start(t)
	in := make([]byte, 1<<20)
	for i := range in {
		in[i] = byte(rand.Uint32())
	}
	var out, errs bytes.Buffer
	code, err := f.Machines.Exec(t.Context(), m.name, host.ExecRequest{Command: []string{"cat"}, Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs})
	if err != nil || code != 0 || !bytes.Equal(out.Bytes(), in) || errs.Len() > 0 {
		t.Errorf("1 MiB through cat: got %d, %v, %d bytes, stderr %q, want the input back", code, err, out.Len(), errs.String())
	}
	out.Reset()
	code, err = f.Machines.Exec(t.Context(), m.name, host.ExecRequest{Command: []string{"sh", "-c", "echo to the side >&2"}, Stdout: &out, Stderr: &errs})
	if err != nil || code != 0 || out.Len() > 0 || errs.String() != "to the side\n" {
		t.Errorf("stderr: got %d, %v, stdout %q, stderr %q, want it separate from stdout", code, err, out.String(), errs.String())
	}
}

func machineCopy(t *testing.T, f MachinesFixture) {
	m, ctx := newMachine(t, f), t.Context()
	m.create(t)
	m.start(t)
	const script = "#!/bin/sh\nexit 7\n"
	if err := f.Machines.Copy(ctx, m.name, writeFile(t, f, "copied", script), "/copied"); err != nil {
		t.Fatalf("copy: %v", err)
	}
	if got := m.exec(t, "cat", "/copied"); got != script {
		t.Errorf("content: got %q, want %q", got, script)
	}
	if code, err := f.Machines.Exec(ctx, m.name, host.ExecRequest{Command: []string{"/copied"}}); err != nil || code != 7 {
		t.Errorf("run: got %d, %v, want 7", code, err)
	}
	if err := f.Machines.Copy(ctx, m.name, "/nonexistent/file", "/x"); err == nil {
		t.Error("copy an absent file: got nil, want an error")
	}
}
