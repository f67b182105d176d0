// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// TestStandinSessions runs commands as users do: many after another, some at a time, and
// some whose client goes. They leave nothing behind, on the node or in the guest.
func TestStandinSessions(t *testing.T) {
	for _, version := range []string{"1.7.7", "1.32.2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // it mostly waits
			w := newWorld(t, standin(t, version), nil)
			f := fixtureOf(t, w)
			name := startDemo(t, f.Machines, f.Image)
			exec := func(ctx context.Context, req host.ExecRequest) (int, error) { return f.Machines.Exec(ctx, name, req) }
			guest := func() string {
				var out bytes.Buffer
				if code, err := exec(t.Context(), host.ExecRequest{Command: []string{"ps"}, Stdout: &out}); err != nil || code != 0 {
					t.Fatalf("ps: got %d, %v", code, err)
				}
				return out.String()
			}
			if code, err := exec(t.Context(), host.ExecRequest{Command: []string{"true"}}); err != nil || code != 0 {
				t.Fatalf("warm up: got %d, %v", code, err)
			}
			processes, files := strings.Count(guest(), "\n"), openFiles(t)

			for i := range 100 {
				tty := i%4 == 3
				code, err := exec(t.Context(), host.ExecRequest{Command: []string{"sh", "-c", fmt.Sprintf("exit %d", i)}, TTY: tty})
				if err != nil || code != i {
					t.Fatalf("exec %d: got %d, %v", i, code, err)
				}
			}
			parallel(t, exec)
			for _, tty := range []bool{false, true} {
				clientGone(t, exec, guest, tty)
			}
			await.True(t, "no more open files or processes of the guest", func() bool {
				return openFiles(t) <= files && strings.Count(guest(), "\n") <= processes
			})
		})
	}
}

func startDemo(t *testing.T, m host.Machines, image string) (name string) {
	t.Helper()
	spec := host.MachineSpec{Owner: host.Owner{UID: "1a2b3c4d-0000-4000-8000-000000000001", Slug: "demo"}, Image: image}
	spec.Smolfile = t.TempDir() + "/Smolfile"
	if err := os.WriteFile(spec.Smolfile, []byte("env = [\"A=1\"]\n\n[network]\nallow_cidrs = [\"192.168.44.2/32\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	name = spec.Owner.ID()
	t.Cleanup(func() {
		if err := m.DeleteMachine(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	if err := m.CreateMachine(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if err := m.StartMachine(t.Context(), name, ""); err != nil {
		t.Fatal(err)
	}
	return name
}

// parallel runs six commands that all run at the same time: each waits for the others.
func parallel(t *testing.T, exec func(context.Context, host.ExecRequest) (int, error)) {
	t.Helper()
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			in := make([]byte, 1<<20)
			_, _ = rand.Read(in)
			var out, errs bytes.Buffer
			script := fmt.Sprintf("mkdir /tmp/six.%d; while [ $(ls -d /tmp/six.* | wc -l) -lt 6 ]; do sleep 0.1; done; cat; echo side >&2; exit %d", i, i)
			code, err := exec(t.Context(), host.ExecRequest{Command: []string{"sh", "-c", script}, Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs, Timeout: 3 * time.Minute})
			if err != nil || code != i || !bytes.Equal(in, out.Bytes()) || errs.String() != "side\n" {
				t.Errorf("%d of six: got %d, %v, %d bytes, stderr %q", i, code, err, out.Len(), errs.String())
			}
		})
	}
	all.Wait()
}

// clientGone ends the client of a command, which then ends too.
func clientGone(t *testing.T, exec func(context.Context, host.ExecRequest) (int, error), guest func() string, tty bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := exec(ctx, host.ExecRequest{Command: []string{"sh", "-c", "trap '' INT; sleep 4711; echo"}, TTY: tty})
		ended <- err
	}()
	await.True(t, "the command", func() bool { return strings.Contains(guest(), "sleep 4711") })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("terminal %v: got %v, want Canceled", tty, err)
	}
	await.True(t, "the end of the command in the guest", func() bool { return !strings.Contains(guest(), "sleep 4711") })
}

func openFiles(t *testing.T) int {
	t.Helper()
	runtime.GC() // files without an owner are closed then
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
