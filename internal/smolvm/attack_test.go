// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/cgroups"
)

const victim, neighbour = "bottle-demo-1a2b3c4d", "bottle-other-1a2b3c4d"

// asUser starts a process as this user.
func asUser(uid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// makeFolder makes a machine's folder with this owner.
func makeFolder(t *testing.T, d *Driver, name string, uid int) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(d.dataDir(name), 0o755), os.Chown(d.dataDir(name), uid, uid)); err != nil {
		t.Fatal(err)
	}
}

func wantAlive(t *testing.T, what string, p process, want bool) {
	t.Helper()
	if got := p.alive(); got != want {
		t.Errorf("%s, process %d: got alive %v, want %v", what, p.pid, got, want)
	}
}

func wantPIDs(t *testing.T, d *Driver, name string, want ...int) {
	t.Helper()
	got, err := d.VMMs(t.Context(), []string{name})
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, v := range got {
		pids = append(pids, v.PID)
	}
	if diff := cmp.Diff(want, pids); diff != "" {
		t.Errorf("VMMs of %s (-want +got):\n%s", name, diff)
	}
	if lives, err := d.Lives(t.Context(), name); err != nil || lives != (len(want) > 0) {
		t.Errorf("Lives of %s: got %v, %v, want %v", name, lives, err, len(want) > 0)
	}
}

// cgroupOf returns the machine whose cgroup p is in.
func cgroupOf(t *testing.T, d *Driver, p process) string {
	t.Helper()
	g, err := d.cgroups()
	if err != nil {
		t.Fatal(err)
	}
	id, err := g.Of(p.pid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// startLookAlike starts a shell with the command line of a VMM.
func startLookAlike(t *testing.T, user uint32, boot string) process {
	t.Helper()
	p := process{pid: cgroups.LookAlike(t, user, "/proc/self/exe", "_boot-vm", boot)}
	p.ticks, _ = startTicks(p.pid)
	return p
}

// Anybody on the node can start a process with the command line of a VMM, and
// can run smolvm itself. If the Driver took such a process for a VMM of the
// machine, the guard would kill the machine, because the process is in another
// network namespace.
func TestLookAlikesAreIgnored(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	makeFolder(t, d, victim, 2000000)
	boot := d.dataDir(victim) + "/boot-config.json"
	vmm, _ := vmmIn(t, d, victim)
	self := startLookAlike(t, cgroups.Nobody, boot)
	smolvm, _ := spawnFrom(t, d.binary(), asUser(cgroups.Nobody), "_boot-vm", boot)

	wantPIDs(t, d, victim, vmm.pid)
	if err := d.KillMachine(t.Context(), victim); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	wantAlive(t, "the machine", vmm, false)
	wantAlive(t, "nobody's shell", self, true)
	wantAlive(t, "nobody's smolvm", smolvm, true)
	wantPIDs(t, d, victim)
	if err := d.DeleteMachine(t.Context(), victim); err != nil {
		t.Errorf("delete: got %v, want nil", err)
	}
	wantAlive(t, "nobody's smolvm after the deletion", smolvm, true)
}

func TestVMMWithRewrittenArgvIsFoundAndKilled(t *testing.T) {
	for what, end := range map[string]func(d *Driver) error{
		"kill":   func(d *Driver) error { return d.KillMachine(t.Context(), victim) },
		"stop":   func(d *Driver) error { return d.StopMachine(t.Context(), victim) },
		"delete": func(d *Driver) error { return d.DeleteMachine(t.Context(), victim) },
	} {
		t.Run(what, func(t *testing.T) {
			c, d := newNode(t, "1.32.2")
			d.runner = booting{c, d}
			c.states[victim] = "created"
			if err := d.StartMachine(t.Context(), victim, ""); err != nil {
				t.Fatal(err)
			}
			vmm, err := readPIDFile(d.dataDir(victim) + "/agent.pid")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(vmm.pid, syscall.SIGKILL) })
			cgroups.RewriteArgv(t, vmm.pid, "/usr/sbin/innocent")
			wantPIDs(t, d, victim, vmm.pid)
			if list, err := d.ListMachines(t.Context()); err != nil || len(list) != 1 || list[0].PID != vmm.pid {
				t.Errorf("list: got %+v, %v, want process %d", list, err, vmm.pid)
			}
			if err := end(d); err != nil {
				t.Errorf("got %v, want nil", err)
			}
			wantAlive(t, "afterwards", vmm, false)
			wantPIDs(t, d, victim)
		})
	}
}

// If kill or delete succeeded while a VMM is alive, the Bottle would be reported
// as gone.
func TestKillFailsWhileVMMIsAlive(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	vmm, _ := vmmIn(t, d, victim)
	cgroups.RewriteArgv(t, vmm.pid, "/usr/sbin/innocent")
	thaw := cgroups.Freeze(t, vmm.pid)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.KillMachine(ctx, victim); err == nil {
		t.Error("kill: got nil, want an error")
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.DeleteMachine(ctx, victim); err == nil {
		t.Error("delete: got nil, want an error")
	}
	wantPIDs(t, d, victim, vmm.pid)
	thaw()
	if err := d.DeleteMachine(t.Context(), victim); err != nil {
		t.Errorf("delete after the thaw: got %v, want nil", err)
	}
	wantAlive(t, "afterwards", vmm, false)
}

// The same on nodes where a test cannot make a process unkillable: the kernel's
// files are faked.
func TestKillFailsWhileCgroupIsPopulated(t *testing.T) {
	for what, end := range map[string]func(context.Context, *Driver) error{
		"kill":   func(ctx context.Context, d *Driver) error { return d.KillMachine(ctx, victim) },
		"delete": func(ctx context.Context, d *Driver) error { return d.DeleteMachine(ctx, victim) },
	} {
		c, d := newCLI(t, "1.32.2")
		c.states[victim] = "created"
		if err := d.StartMachine(t.Context(), victim, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.folder, "cgroup.events"), []byte("populated 1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c.states[victim] = "stopped"
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		kill := filepath.Join(c.folder, "cgroup.kill")
		go func() { // until the driver waits for the end of what it has killed
			for b, _ := os.ReadFile(kill); string(b) != "1" && ctx.Err() == nil; b, _ = os.ReadFile(kill) {
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
		}()
		if err := end(ctx, d); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want Canceled", what, err)
		}
		if b, err := os.ReadFile(filepath.Join(c.folder, "cgroup.kill")); string(b) != "1" {
			t.Errorf("%s: cgroup.kill: got %q, %v, want 1", what, b, err)
		}
	}
}

// The first scan adopts a machine that an earlier release of the agent started.
// The scan queries only the kernel, not smolvm. Until then the machine's cgroup
// is absent or empty.
func TestAdoption(t *testing.T) {
	for name, tt := range map[string]struct{ owner, user int }{
		"root owns the folder and runs the VMM":            {0, 0},
		"the machine's user owns the folder and runs it":   {2000000, 2000000},
		"the machine's user owns the folder, root runs it": {2000000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, d := newNode(t, "1.32.2")
			makeFolder(t, d, victim, tt.owner)
			vmm, _ := spawnFrom(t, d.binary(), asUser(uint32(tt.user)), "_boot-vm", d.dataDir(victim)+"/boot-config.json")
			if got := cgroupOf(t, d, vmm); got != "" {
				t.Fatalf("before: got cgroup %q, want none", got)
			}
			wantPIDs(t, d, victim, vmm.pid)
			if got := cgroupOf(t, d, vmm); got != victim {
				t.Errorf("cgroup: got %q, want %q", got, victim)
			}
			cgroups.RewriteArgv(t, vmm.pid, "/usr/sbin/innocent")
			wantPIDs(t, d, victim, vmm.pid)
			if len(c.calls) > 0 {
				t.Errorf("calls of smolvm: got %d, want none", len(c.calls))
			}
			if err := d.KillMachine(t.Context(), victim); err != nil {
				t.Errorf("kill: got %v, want nil", err)
			}
			wantAlive(t, "killed", vmm, false)
		})
	}
}

// A list may come before the first scan. It reports a PID only for a process in
// the machine's cgroup, so it adopts strays too.
func TestListAdoptsStrays(t *testing.T) {
	c, d := newNode(t, "1.32.2")
	vmm, _ := spawn(t, "_boot-vm", d.dataDir(victim)+"/boot-config.json")
	record(t, d, victim, vmm)
	c.states[victim], c.pids = "running", map[string]int{victim: vmm.pid}
	list, err := d.ListMachines(t.Context())
	if err != nil || len(list) != 1 || list[0].PID != vmm.pid || cgroupOf(t, d, vmm) != victim {
		t.Errorf("got %+v, %v in cgroup %q, want process %d in its own", list, err, cgroupOf(t, d, vmm), vmm.pid)
	}
}

// A VMM is adopted even if smolvm was replaced while it ran.
func TestAdoptionAfterSmolvmUpgrade(t *testing.T) {
	for what, replace := range map[string]func(path string) error{
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("another"), 0o755), os.Rename(path+".new", path))
		},
		"removed": os.Remove,
	} {
		t.Run(what, func(t *testing.T) {
			_, d := newNode(t, "1.32.2")
			copied, err := os.ReadFile(d.binary())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Remove(d.binary()), os.WriteFile(d.binary(), copied, 0o755)); err != nil {
				t.Fatal(err)
			}
			vmm, _ := spawnFrom(t, d.binary(), nil, "_boot-vm", d.dataDir(victim)+"/boot-config.json")
			if err := replace(d.binary()); err != nil {
				t.Fatal(err)
			}
			wantPIDs(t, d, victim, vmm.pid)
			if got := cgroupOf(t, d, vmm); got != victim {
				t.Errorf("cgroup: got %q, want %q", got, victim)
			}
		})
	}
}

// A new version of smolvm is installed beside the one that a machine runs. The machine is
// still recognised, whether the former one was installed in the same way or by hand.
func TestAdoptionOfAnotherVersion(t *testing.T) {
	for what, former := range map[string]string{"beside it": "versions/1.0/smolvm", "by hand": "smolvm"} {
		t.Run(what, func(t *testing.T) {
			_, d := newNode(t, "1.32.2")
			self, err := os.ReadFile(d.binary())
			if err != nil {
				t.Fatal(err)
			}
			opt := d.opts.Dir
			former := filepath.Join(opt, former)
			d.opts.Dir = filepath.Join(opt, "current")
			err = errors.Join(os.Remove(filepath.Join(opt, "smolvm")), os.MkdirAll(filepath.Join(opt, "versions/1.0"), 0o755), os.MkdirAll(filepath.Join(opt, "versions/2.0"), 0o755),
				os.WriteFile(former, self, 0o755), os.WriteFile(filepath.Join(opt, "versions/2.0/smolvm"), self, 0o755), os.Symlink("versions/2.0", d.opts.Dir))
			if err != nil {
				t.Fatal(err)
			}
			boot := d.dataDir(victim) + "/boot-config.json"
			vmm, _ := spawnFrom(t, former, nil, "_boot-vm", boot)
			elsewhere := filepath.Join(t.TempDir(), "smolvm")
			if err := os.WriteFile(elsewhere, self, 0o755); err != nil {
				t.Fatal(err)
			}
			stranger, _ := spawnFrom(t, elsewhere, nil, "_boot-vm", boot)
			wantPIDs(t, d, victim, vmm.pid)
			if got := cgroupOf(t, d, vmm); got != victim {
				t.Errorf("cgroup: got %q, want %q", got, victim)
			}
			if err := d.KillMachine(t.Context(), victim); err != nil {
				t.Errorf("kill: got %v, want nil", err)
			}
			wantAlive(t, "the machine", vmm, false)
			wantAlive(t, "the same program elsewhere", stranger, true)
		})
	}
}

func TestAdoptionIsRefused(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	makeFolder(t, d, victim, 2000000)
	makeFolder(t, d, neighbour, 2000001)
	boot := d.dataDir(victim) + "/boot-config.json"
	processes := map[string]process{}
	add := func(what string, p process, _ func()) { processes[what] = p }
	start := func(attr *syscall.SysProcAttr) (process, func()) {
		return spawnFrom(t, d.binary(), attr, "_boot-vm", boot)
	}
	p, reap := start(asUser(cgroups.Nobody))
	add("smolvm run by nobody", p, reap)
	p, reap = start(asUser(2000001))
	add("smolvm run by another machine's user", p, reap)
	add("another program run by root", startLookAlike(t, 0, boot), nil)
	p, reap = vmmIn(t, d, neighbour)
	cgroups.RewriteArgv(t, p.pid, "/proc/self/exe\x00_boot-vm\x00"+boot)
	add("another machine's VMM with a rewritten argv", p, reap)

	wantPIDs(t, d, victim)
	for what, p := range processes {
		if d.owns(victim, p) {
			t.Errorf("%s: owns returned true, want false", what)
		}
	}
	if err := d.KillMachine(t.Context(), victim); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	for what, p := range processes {
		wantAlive(t, what, p, true)
		if got := cgroupOf(t, d, p); got == victim {
			t.Errorf("%s: was moved into the machine's cgroup, want it left alone", what)
		}
	}
	later := processes["another program run by root"]
	later.ticks++
	if d.owns(victim, later) {
		t.Error("another start time: owns returned true, want false")
	}
}

// /proc shows a process whose main thread has exited as a zombie, although its
// other threads run.
func TestVMMWithExitedMainThreadIsFoundAndKilled(t *testing.T) {
	t.Setenv("EXIT_MAIN_THREAD", "1")
	_, d := newNode(t, "1.32.2")
	vmm, _ := vmmIn(t, d, victim)
	for range 500 {
		if b, _ := os.ReadFile(procFile(vmm.pid, "cmdline")); len(b) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if b, err := os.ReadFile(procFile(vmm.pid, "cmdline")); len(b) > 0 || err != nil {
		t.Fatalf("command line: got %q, %v, want none: the main thread has not exited", b, err)
	}
	wantPIDs(t, d, victim, vmm.pid)
	if err := d.KillMachine(t.Context(), victim); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	wantAlive(t, "killed", vmm, false)
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		cpus int32
		mib  int64
		want cgroup.Limits
	}{
		{0, 0, cgroup.Limits{PIDs: 2048}},
		{2, 256, cgroup.Limits{MemoryBytes: 768 << 20, PIDs: 2048, CPUMillis: 2500}},
		{4, 8192, cgroup.Limits{MemoryBytes: 8704 << 20, PIDs: 2048, CPUMillis: 4500}},
	} {
		if got := limitsOf(host.Machine{CPUs: tt.cpus, MemoryMiB: tt.mib}); got != tt.want {
			t.Errorf("%d CPUs, %d MiB: got %+v, want %+v", tt.cpus, tt.mib, got, tt.want)
		}
	}
}

func TestStartSetsLimits(t *testing.T) {
	c, d := newCLI(t, "1.32.2")
	c.states[victim] = "created"
	if err := d.StartMachine(t.Context(), victim, ""); err != nil {
		t.Fatal(err)
	}
	for _, call := range c.calls {
		if got := call.Cgroup; (verb(call) == "start") != (got != nil && got.Name() == c.folder) {
			t.Errorf("%s: got cgroup %v, want the machine's cgroup for start and none for other calls", verb(call), got)
		}
	}
	for file, want := range map[string]string{"memory.max": "1610612736", "pids.max": "2048", "cpu.max": "250000 100000"} {
		if got, err := os.ReadFile(filepath.Join(c.folder, file)); string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
		}
	}
}

// A container can hold a program at the path where this node's smolvm was before
// it was replaced. The path of a file proves nothing.
func TestContainerIsNotAdopted(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	makeFolder(t, d, victim, 2000000)
	copied, err := os.ReadFile(d.binary())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(d.binary()), os.WriteFile(d.binary(), copied, 0o755)); err != nil {
		t.Fatal(err)
	}
	p, _ := spawnFrom(t, d.binary(), &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}, "_boot-vm", d.dataDir(victim)+"/boot-config.json")
	if err := errors.Join(os.WriteFile(d.binary()+".new", copied, 0o755), os.Rename(d.binary()+".new", d.binary())); err != nil {
		t.Fatal(err)
	}
	wantPIDs(t, d, victim)
	if err := d.KillMachine(t.Context(), victim); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	wantAlive(t, "root's process in a container", p, true)
}

// An exiting process has no namespaces while the kernel closes its descriptors.
// Such a process must not hide the machines from the guard.
func TestExitingProcessDoesNotHideOthers(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	makeFolder(t, d, victim, 0)
	makeFolder(t, d, neighbour, 0)
	good, _ := vmmIn(t, d, neighbour)
	g, err := d.cgroups()
	if err != nil {
		t.Fatal(err)
	}
	group, err := g.Ensure(victim)
	if err != nil {
		t.Fatal(err)
	}
	// Its children open many descriptors and exit immediately.
	script := "import os\nwhile True:\n    if os.fork() == 0:\n        for _ in range(400):\n            os.eventfd(0)\n        os._exit(0)\n    os.wait()"
	cmd := exec.Command("python3", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.KillMachine(t.Context(), victim); err != nil {
			t.Errorf("kill: got %v, want nil", err)
		}
		_ = cmd.Wait()
	}()
	for range 200 {
		vmms, err := d.VMMs(t.Context(), []string{victim, neighbour})
		if err != nil || !slices.ContainsFunc(vmms, func(v host.VMM) bool { return v.PID == good.pid }) {
			t.Fatalf("got %v, %v, want the other machine's process %d in the list", vmms, err, good.pid)
		}
		for _, v := range vmms {
			if v.NetNS == (host.NetNS{}) {
				t.Fatalf("process %d: got no namespace, want exiting processes left out", v.PID)
			}
		}
	}
}

func TestThreadExiting(t *testing.T) {
	for stat, want := range map[string]bool{
		"12 (a) b) R 1 12 12 0 -1 4194560 1":   false,
		"12 (smolvm) R 1 12 12 0 -1 4194564 1": true, // PF_EXITING
		"12 (smolvm) Z 1 12 12 0 -1 4194560 1": true,
		"12 (smolvm) S":                        false,
		"":                                     false,
	} {
		if got := threadExiting([]byte(stat)); got != want {
			t.Errorf("%q: got %v, want %v", stat, got, want)
		}
	}
}
