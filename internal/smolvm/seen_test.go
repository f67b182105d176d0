// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// awaitSignal returns once a test sends SIGUSR1. It announces in the folder of
// ready that it waits.
func awaitSignal(ready string) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	_ = os.WriteFile(ready, nil, 0o644)
	<-c
}

// leaveNetNS moves this process into a new network namespace after SIGUSR1. It
// runs on the main thread.
func leaveNetNS() {
	awaitSignal(os.Getenv("LEAVE_NETNS"))
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		os.Exit(4)
	}
}

// becomeVMM executes a program after SIGUSR1, as smolvm does when it turns a
// process of its own into a VMM. Its arguments are the file that says that it
// waits, the program, and the program's argument.
func becomeVMM(args []string) {
	awaitSignal(args[0])
	_ = syscall.Exec(args[1], []string{args[1], "_boot-vm", args[2]}, os.Environ())
	os.Exit(4)
}

// signalWhenReady sends SIGUSR1 once the process waits for it.
func signalWhenReady(t *testing.T, p process, ready string) {
	t.Helper()
	await.True(t, "the process waits", func() bool {
		_, err := os.Stat(ready)
		return err == nil
	})
	if err := syscall.Kill(p.pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
}

func vmmsOf(t *testing.T, d *Driver, names ...string) []host.VMM {
	t.Helper()
	got, err := d.VMMs(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A VMM that leaves its wall's network namespace after a scan is found in the new
// one by the next scan.
func TestSeenVMMLeavesItsNetNS(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	t.Setenv("LEAVE_NETNS", ready)
	_, d := newNode(t, "1.32.2")
	p, _ := vmmIn(t, d, victim)
	before := vmmsOf(t, d, victim)
	if again := vmmsOf(t, d, victim); len(before) != 1 || !cmp.Equal(before, again) {
		t.Fatalf("the same VMM twice: got %v, then %v, want one and the same", before, again)
	}
	signalWhenReady(t, p, ready)
	await.True(t, "the process left its namespace", func() bool {
		ns, err := netnsOf(p.pid)
		return err == nil && ns != before[0].NetNS
	})
	now, err := netnsOf(p.pid)
	if err != nil {
		t.Fatal(err)
	}
	if got := vmmsOf(t, d, victim); len(got) != 1 || got[0].NetNS != now {
		t.Errorf("got %v, want namespace %v", got, now)
	}
}

// smolvm becomes a VMM by exec, in a process that earlier scans saw.
func TestSeenProcessBecomesVMM(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	makeFolder(t, d, victim, 0)
	ready := filepath.Join(t.TempDir(), "ready")
	p, _ := spawn(t, "_exec-vm", ready, d.binary(), d.dataDir(victim)+"/boot-config.json")
	for range 2 {
		if got := vmmsOf(t, d, victim); len(got) > 0 {
			t.Fatalf("before exec: got %v, want none", got)
		}
	}
	signalWhenReady(t, p, ready)
	await.True(t, "the process is found", func() bool {
		got := vmmsOf(t, d, victim)
		return len(got) == 1 && got[0].PID == p.pid
	})
}

// A process that keeps forking a child and exiting is found, although most of its
// processes are gone before they can be read.
func TestProcessThatReplacesItselfIsFound(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	g, err := d.cgroups()
	if err != nil {
		t.Fatal(err)
	}
	// Each process starts its successor and exits immediately. The chain ends by
	// itself after 200,000 processes.
	cmd := exec.Command("sh", "-c", "read _; f() { i=$((i + 1)); [ $i -gt 200000 ] || f & }; i=0; f")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Kill(context.Background(), victim); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		if err := g.Remove(victim); err != nil {
			t.Error(err)
		}
	})
	if err := g.Add(victim, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	const scans = 50
	found := 0
	for range scans {
		if len(vmmsOf(t, d, victim)) > 0 {
			found++
		}
	}
	if alive, err := g.Populated(victim); err != nil || !alive {
		t.Fatalf("the process ended before the last scan (%v)", err)
	}
	if found < scans/2 {
		t.Errorf("found by %d of %d scans, want most", found, scans)
	}
}
