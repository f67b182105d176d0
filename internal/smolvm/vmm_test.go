// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

// TestMain lets the test run itself as a VMM: a process of that argv, which
// does nothing until it is killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "_boot-vm" {
		time.Sleep(time.Minute)
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// spawn starts this program with an argv and returns its process, which is
// collected when reap is called, at the latest when the test is over.
func spawn(t *testing.T, args ...string) (p process, reap func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := false
	reap = func() {
		if !reaped {
			reaped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(reap)
	ticks, ok := startTicks(cmd.Process.Pid)
	if !ok {
		t.Fatalf("process %d: no start time", cmd.Process.Pid)
	}
	// Until it has executed it has this process's argv.
	for range 500 {
		b, _ := os.ReadFile(procFile(cmd.Process.Pid, "cmdline"))
		if want := "\x00" + args[len(args)-1] + "\x00"; len(b) > len(want) && string(b[len(b)-len(want):]) == want {
			return process{cmd.Process.Pid, ticks}, reap
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d did not execute", cmd.Process.Pid)
	return process{}, nil
}

// record writes agent.pid as smolvm does.
func record(t *testing.T, d *Driver, name string, p process) {
	t.Helper()
	dir := d.dataDir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.pid"), fmt.Appendf(nil, "%d\n%d\n", p.pid, p.ticks), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestObserve(t *testing.T) {
	_, d := newCLI(t, "1.32.2")
	const name = "bottle-demo-1a2b3c4d"
	boot := d.dataDir(name) + "/boot-config.json"
	vmm, _ := spawn(t, "_boot-vm", boot)
	other, _ := spawn(t, "_boot-vm", d.dataDir("bottle-other-1a2b3c4d")+"/boot-config.json")
	dead, reap := spawn(t, "_boot-vm", boot)
	reap()
	later := process{vmm.pid, vmm.ticks + 1}

	running := host.Machine{Name: name, State: host.MachineRunning}
	proven := host.Machine{Name: name, State: host.MachineRunning, PID: vmm.pid, StartTime: d.booted.at(vmm.ticks)}
	silent := host.Machine{Name: name, State: host.MachineUnreachable}
	stopped := host.Machine{Name: name, State: host.MachineStopped}
	tests := map[string]struct {
		recorded process
		listed   int
		in, want host.Machine
	}{
		"running":                     {vmm, vmm.pid, running, proven},
		"unreachable, VMM is alive":   {vmm, vmm.pid, silent, silent},
		"another process is listed":   {vmm, other.pid, running, running},
		"nothing is listed":           {vmm, 0, running, running},
		"VMM of another machine":      {other, other.pid, running, running},
		"VMM is dead":                 {dead, dead.pid, running, stopped},
		"unreachable, VMM is dead":    {dead, dead.pid, silent, stopped},
		"number is another process's": {later, later.pid, running, stopped},
		"stopped with a stale number": {vmm, vmm.pid, stopped, stopped},
	}
	for what, tt := range tests {
		record(t, d, name, tt.recorded)
		got := tt.in
		d.observe(&got, tt.listed)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if err := os.Remove(d.dataDir(name) + "/agent.pid"); err != nil {
		t.Fatal(err)
	}
	got := running
	if d.observe(&got, vmm.pid); !cmp.Equal(running, got) {
		t.Errorf("no agent.pid: got %+v, want running without a process", got)
	}
}

// A VMM that nobody has collected yet is dead.
func TestObserveAZombie(t *testing.T) {
	_, d := newCLI(t, "1.32.2")
	const name = "bottle-demo-1a2b3c4d"
	p, _ := spawn(t, "_boot-vm", d.dataDir(name)+"/boot-config.json")
	record(t, d, name, p)
	if err := d.clear(t.Context(), name); err != nil { // kills, does not collect
		t.Fatal(err)
	}
	if _, err := os.Stat(procFile(p.pid, "stat")); err != nil {
		t.Fatalf("process %d: got %v, want it not collected yet", p.pid, err)
	}
	m := host.Machine{Name: name, State: host.MachineUnreachable}
	if d.observe(&m, p.pid); m.State != host.MachineStopped {
		t.Errorf("got %s, want stopped", m.State)
	}
}

// clear must find its VMM without agent.pid, and touch nothing else, whatever
// agent.pid says: the VMM may write there.
func TestClearKillsOwnVMMsOnly(t *testing.T) {
	_, d := newCLI(t, "0.8.0")
	const name = "bottle-demo-1a2b3c4d"
	boot := d.dataDir(name) + "/boot-config.json"
	first, _ := spawn(t, "_boot-vm", boot)
	second, _ := spawn(t, "_boot-vm", boot)
	other, _ := spawn(t, "_boot-vm", d.dataDir("bottle-other-1a2b3c4d")+"/boot-config.json")
	record(t, d, name, other)
	if err := d.clear(t.Context(), name); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	for p, want := range map[process]bool{first: false, second: false, other: true} {
		if _, alive := startTicks(p.pid); alive != want {
			t.Errorf("process %d: got alive %v, want %v", p.pid, alive, want)
		}
	}
	if err := d.kill(t.Context(), []vmmOf{{other, name}}); err != nil {
		t.Errorf("kill of another's: got %v, want nil", err)
	}
	if _, alive := startTicks(other.pid); !alive {
		t.Error("kill of another's: got it killed, want it left alone")
	}
}

// BenchmarkVMMs looks for 250 machines, of which none runs, among the node's
// own processes and 2000 more.
func BenchmarkVMMs(b *testing.B) {
	d := New(Options{Dir: "/nonexistent", Home: "/h"})
	names := make([]string, 250)
	for i := range names {
		names[i] = fmt.Sprintf("bottle-demo-%08x", i)
	}
	for range 2000 {
		cmd := exec.Command("/bin/sleep", "600")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	for b.Loop() {
		if got, err := d.VMMs(b.Context(), names); err != nil || len(got) > 0 {
			b.Fatalf("got %v, %v, want none", got, err)
		}
	}
}
