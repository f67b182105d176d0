// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
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
	eventually(t, "the process waits", func() bool {
		_, err := os.Stat(ready)
		return err == nil
	})
	if err := syscall.Kill(p.pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: got no, want yes", what)
		}
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

// A VMM that leaves its wall's network namespace does so while it is known.
func TestKnownVMMLeavesItsNetNS(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	t.Setenv("LEAVE_NETNS", ready)
	_, d := newNode(t, "1.32.2")
	p, _ := vmmIn(t, d, victim)
	before := vmmsOf(t, d, victim)
	if again := vmmsOf(t, d, victim); len(before) != 1 || !cmp.Equal(before, again) {
		t.Fatalf("the same VMM twice: got %v, then %v, want one and the same", before, again)
	}
	signalWhenReady(t, p, ready)
	eventually(t, "the process left its namespace", func() bool {
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

// A VMM that is gone is not found, and nothing of it is kept.
func TestKnownVMMEnds(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	_, reap := vmmIn(t, d, victim)
	other, _ := vmmIn(t, d, neighbour)
	for range 2 {
		if got := vmmsOf(t, d, victim, neighbour); len(got) != 2 {
			t.Fatalf("got %v, want two VMMs", got)
		}
	}
	if got := len(d.known.processes); got != 2 {
		t.Errorf("got %d known processes, want 2", got)
	}
	reap()
	for range 2 * knownFor {
		if got := vmmsOf(t, d, victim, neighbour); len(got) != 1 || got[0].PID != other.pid {
			t.Fatalf("got %v, want process %d alone", got, other.pid)
		}
	}
	if got := len(d.known.processes); got != 1 {
		t.Errorf("got %d known processes, want 1", got)
	}
}

// The folder that was kept of a process must not give answers about another
// process with the same PID.
func TestKnownPIDIsReused(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	dead, reap := spawn(t, "_boot-vm", "x")
	d.known.add(dead)
	reap()
	p, _ := vmmIn(t, d, victim)
	d.known.processes[p.pid] = d.known.processes[dead.pid] // as if p had the PID
	delete(d.known.processes, dead.pid)
	got := vmmsOf(t, d, victim)
	if len(got) != 1 || got[0].PID != p.pid || !got[0].StartTime.Equal(d.booted.at(p.ticks)) {
		t.Errorf("got %v, want process %d, started at %v", got, p.pid, d.booted.at(p.ticks))
	}
	if d.known.add(process{p.pid, p.ticks + 1}); d.known.processes[p.pid].ticks != p.ticks {
		t.Errorf("got %d ticks, want %d", d.known.processes[p.pid].ticks, p.ticks)
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
	eventually(t, "the process is found", func() bool {
		got := vmmsOf(t, d, victim)
		return len(got) == 1 && got[0].PID == p.pid
	})
}

// A process that joins a machine's cgroup between the listing of the cgroup and
// the scan of /proc, for example because another call adopted it, may have
// existed before either.
func TestProcessThatJoinedMeanwhile(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	vmmIn(t, d, victim)
	vmmIn(t, d, victim)
	vmmIn(t, d, neighbour)
	strays, joined, err := d.straysExcept(t.Context(), []string{victim}, &members{})
	if want := []string{victim}; err != nil || len(strays) > 0 || !cmp.Equal(joined, want) {
		t.Errorf("got strays %v, joined %v, %v, want no strays and %v", strays, joined, err, want)
	}
}
