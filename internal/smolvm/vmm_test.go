// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
	"botbottle.dev/bottle-operator/test/cgroups"
)

// TestMain lets the test binary act as smolvm: either as a VMM, which does
// nothing until it is killed, or as the command that starts a VMM. Neither may
// run the tests: they would start it again.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "_exec-vm":
		becomeVMM(os.Args[2:])
	case "_boot-vm":
		if os.Getenv("EXIT_MAIN_THREAD") != "" {
			exitMainThread()
		}
		if os.Getenv("LEAVE_NETNS") != "" {
			leaveNetNS()
		}
		time.Sleep(time.Minute)
		os.Exit(3)
	case "machine":
		if err := startVMM(nameIn(os.Args)); err != nil {
			fmt.Fprintln(os.Stderr, "Error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func nameIn(args []string) string {
	for _, a := range args {
		if name, ok := strings.CutPrefix(a, "--name="); ok {
			return name
		}
	}
	return "none"
}

func init() { runtime.LockOSThread() } // keep main on the process's main thread

// exitMainThread ends only the main thread: the process then looks like a zombie
// while its other threads run.
func exitMainThread() {
	go time.Sleep(time.Minute)
	time.Sleep(100 * time.Millisecond)
	_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
}

// startVMM does what `machine start` does: it starts a VMM in a process group of
// its own, which outlives the command.
func startVMM(name string) error {
	d := New(Options{Home: os.Getenv("HOME")})
	if err := os.MkdirAll(d.dataDir(name), 0o755); err != nil {
		return err
	}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"/proc/self/exe", "_boot-vm", d.dataDir(name) + "/boot-config.json"}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ticks, _ := startTicks(cmd.Process.Pid)
	return os.WriteFile(d.dataDir(name)+"/agent.pid", fmt.Appendf(nil, "%d\n%d\n", cmd.Process.Pid, ticks), 0o644)
}

// newNode is like newCLI, but with real cgroups, and smolvm is this test binary.
func newNode(t *testing.T, version string) (*cli, *Driver) {
	t.Helper()
	c, d := newCLI(t, version)
	d.opts.Cgroups, d.groups.open = cgroups.Parent(t), nil
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Every user can run it, as on a node.
	err = errors.Join(os.Remove(d.binary()), os.Link(self, d.binary()), os.Chmod(filepath.Dir(d.opts.Dir), 0o711))
	if err != nil {
		t.Fatal(err)
	}
	return c, d
}

// booting is a fake command line that really starts VMMs.
type booting struct {
	*cli
	d *Driver
}

func (b booting) Run(ctx context.Context, cmd runner.Command) (runner.Result, error) {
	if verb(cmd) != "start" {
		return b.cli.Run(ctx, cmd)
	}
	res, err := runner.Exec{}.Run(ctx, cmd)
	b.mu.Lock()
	defer b.mu.Unlock()
	name := nameIn(cmd.Args)
	if p, readErr := readPIDFile(b.d.dataDir(name) + "/agent.pid"); err == nil && readErr == nil {
		b.states[name], b.pids = "running", map[string]int{name: p.pid}
	}
	return res, err
}

// vmmIn starts a VMM of the machine in the machine's cgroup. There may be
// several.
func vmmIn(t *testing.T, d *Driver, name string) (p process, reap func()) {
	t.Helper()
	g, err := d.cgroups()
	if err != nil {
		t.Fatal(err)
	}
	folder, err := g.Ensure(name)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	return spawnBy(t, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}, "_boot-vm", d.dataDir(name)+"/boot-config.json")
}

// spawn starts this test binary with these arguments. reap kills and reaps the
// process; the test's cleanup does so at the latest.
func spawn(t *testing.T, args ...string) (p process, reap func()) {
	t.Helper()
	return spawnBy(t, nil, args...)
}

func spawnBy(t *testing.T, attr *syscall.SysProcAttr, args ...string) (p process, reap func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return spawnFrom(t, self, attr, args...)
}

func spawnFrom(t *testing.T, program string, attr *syscall.SysProcAttr, args ...string) (p process, reap func()) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = attr
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
	// Until exec has finished, the process has this process's argv.
	for range 500 {
		b, _ := os.ReadFile(procFile(cmd.Process.Pid, "cmdline"))
		if want := "\x00" + args[len(args)-1] + "\x00"; len(b) > len(want) && string(b[len(b)-len(want):]) == want {
			return process{cmd.Process.Pid, ticks}, reap
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d: exec did not finish", cmd.Process.Pid)
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
	_, d := newNode(t, "1.32.2")
	const name = "bottle-demo-1a2b3c4d"
	vmm, _ := vmmIn(t, d, name)
	other, _ := vmmIn(t, d, "bottle-other-1a2b3c4d")
	dead, reap := vmmIn(t, d, name)
	reap()
	later := process{vmm.pid, vmm.ticks + 1}

	running := host.Machine{Name: name, State: host.MachineRunning}
	withPID := host.Machine{Name: name, State: host.MachineRunning, PID: vmm.pid, StartTime: d.booted.at(vmm.ticks)}
	unreachable := host.Machine{Name: name, State: host.MachineUnreachable}
	stopped := host.Machine{Name: name, State: host.MachineStopped}
	tests := map[string]struct {
		recorded process
		listed   int
		in, want host.Machine
	}{
		"running":                   {vmm, vmm.pid, running, withPID},
		"unreachable, VMM is alive": {vmm, vmm.pid, unreachable, unreachable},
		"another process is listed": {vmm, other.pid, running, running},
		"nothing is listed":         {vmm, 0, running, running},
		"VMM of another machine":    {other, other.pid, running, running},
		"VMM is dead":               {dead, dead.pid, running, stopped},
		"unreachable, VMM is dead":  {dead, dead.pid, unreachable, stopped},
		"PID was reused":            {later, later.pid, running, stopped},
		"stopped with a stale PID":  {vmm, vmm.pid, stopped, stopped},
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
		t.Errorf("no agent.pid: got %+v, want running without a PID", got)
	}
}

// A VMM that has not been reaped yet counts as dead.
func TestObserveZombie(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	const name = "bottle-demo-1a2b3c4d"
	p, _ := spawn(t, "_boot-vm", d.dataDir(name)+"/boot-config.json")
	record(t, d, name, p)
	if err := d.clear(t.Context(), name); err != nil { // kills, but does not reap
		t.Fatal(err)
	}
	if _, err := os.Stat(procFile(p.pid, "stat")); err != nil {
		t.Fatalf("process %d: got %v, want a zombie", p.pid, err)
	}
	m := host.Machine{Name: name, State: host.MachineUnreachable}
	if d.observe(&m, p.pid); m.State != host.MachineStopped {
		t.Errorf("got %s, want stopped", m.State)
	}
}

// clear must find the machine's VMMs without agent.pid. Whatever agent.pid
// contains, it must kill nothing else: the VMM can write that file.
func TestClearKillsOwnVMMsOnly(t *testing.T) {
	_, d := newNode(t, "0.8.0")
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
	if err := d.killStrays(t.Context(), []machineProcess{{other, name}}); err != nil {
		t.Errorf("kill another machine's VMM: got %v, want nil", err)
	}
	if _, alive := startTicks(other.pid); !alive {
		t.Error("kill another machine's VMM: it was killed, want it left alone")
	}
}

// BenchmarkVMMs scans for 250 machines, none of which runs, among the node's own
// processes and 2000 more.
func BenchmarkVMMs(b *testing.B) {
	d := New(Options{Dir: "/nonexistent", Home: "/h", Cgroups: cgroups.Parent(b)})
	names := benchmarkNames()
	for range 2000 {
		startSleep(b, nil)
	}
	benchmarkVMMs(b, d, names, 0)
}

// BenchmarkVMMsRunning scans for 250 machines that run, among the node's own
// processes and 500 more.
func BenchmarkVMMsRunning(b *testing.B) {
	d := New(Options{Dir: "/nonexistent", Home: "/h", Cgroups: cgroups.Parent(b)})
	names := benchmarkNames()
	g, err := d.cgroups()
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range names {
		folder, err := g.Ensure(name)
		if err != nil {
			b.Fatal(err)
		}
		startSleep(b, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())})
		folder.Close()
	}
	for range 500 {
		startSleep(b, nil)
	}
	benchmarkVMMs(b, d, names, len(names))
}

func benchmarkNames() []string {
	names := make([]string, 250)
	for i := range names {
		names[i] = fmt.Sprintf("bottle-demo-%08x", i)
	}
	return names
}

func startSleep(b *testing.B, attr *syscall.SysProcAttr) {
	b.Helper()
	cmd := exec.Command("/bin/sleep", "600")
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// benchmarkVMMs reports cpu-ms/op, the processor time of one scan, including that
// of the kernel.
func benchmarkVMMs(b *testing.B, d *Driver, names []string, want int) {
	before := cpuTime(b)
	for b.Loop() {
		if got, err := d.VMMs(b.Context(), names); err != nil || len(got) != want {
			b.Fatalf("got %d processes, %v, want %d", len(got), err, want)
		}
	}
	b.ReportMetric((cpuTime(b)-before)/float64(b.N), "cpu-ms/op")
}

func cpuTime(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}
