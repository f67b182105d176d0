// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/test/cgroups"
)

const id, other = "bottle-demo-1a2b3c4d", "bottle-other-1a2b3c4d"

func openGroups(t *testing.T) *cgroup.Groups {
	t.Helper()
	g, err := cgroup.Open(cgroups.Parent(t))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// family starts a shell with children in the cgroup of the folder clone, or in
// this process's cgroup if clone is nil. It returns the shell's PID.
func family(t *testing.T, clone *os.File) int {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "sleep 600 & (sleep 600 & sleep 600) & echo ready; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if clone != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(clone.Fd())
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q, %v, want ready", line, err)
	}
	return cmd.Process.Pid
}

func TestCgroupContainsDescendants(t *testing.T) {
	g := openGroups(t)
	f, err := g.Ensure(id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if populated, err := g.Populated(id); err != nil || populated {
		t.Errorf("new: got populated %v, %v, want empty", populated, err)
	}
	pid := family(t, f)
	var pids []int
	for range 300 { // the inner shell may fork later
		if pids, err = g.Procs(id); err != nil || len(pids) >= 4 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil || !slices.Contains(pids, pid) || len(pids) < 4 {
		t.Fatalf("processes: got %v, %v, want %d and its children", pids, err, pid)
	}
	for _, p := range pids {
		if got, err := g.Of(p); err != nil || got != id {
			t.Errorf("cgroup of %d: got %q, %v, want %q", p, got, err, id)
		}
	}
	if got, err := g.Of(os.Getpid()); err != nil || got != "" {
		t.Errorf("cgroup of the test: got %q, %v, want none", got, err)
	}
	if err := g.Remove(id); !errors.Is(err, unix.EBUSY) {
		t.Errorf("remove: got %v, want EBUSY", err)
	}
	if missing, err := g.SetLimits(id, cgroup.Limits{MemoryBytes: 1 << 30, PIDs: 1000, CPUMillis: 2000}); err != nil {
		t.Errorf("limits: got missing %v, %v, want nil", missing, err)
	}
	for range 2 {
		if err := g.Kill(t.Context(), id); err != nil {
			t.Fatalf("kill: got %v, want nil", err)
		}
	}
	for _, p := range pids {
		if cgroups.Alive(p) {
			t.Errorf("process %d is still alive, want it killed", p)
		}
	}
	if populated, err := g.Populated(id); err != nil || populated {
		t.Errorf("after kill: got populated %v, %v, want empty", populated, err)
	}
	if pids, err := g.Procs(id); err != nil || len(pids) > 0 {
		t.Errorf("killed, but not reaped yet: got %v, %v, want no processes", pids, err)
	}
	for range 2 {
		if err := g.Remove(id); err != nil {
			t.Errorf("remove: got %v, want nil", err)
		}
	}
}

func TestAdd(t *testing.T) {
	g := openGroups(t)
	pid := family(t, nil)
	if err := g.Add(id, pid); err != nil {
		t.Fatal(err)
	}
	if got, err := g.Of(pid); err != nil || got != id {
		t.Errorf("moved: got %q, %v, want %q", got, err, id)
	}
	if pids, err := g.Procs(other); err != nil || len(pids) > 0 {
		t.Errorf("another machine: got %v, %v, want no processes", pids, err)
	}
	if err := g.Kill(t.Context(), other); err != nil || !cgroups.Alive(pid) {
		t.Errorf("kill another machine: got %v, alive %v, want nil and alive", err, cgroups.Alive(pid))
	}
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(id, gone.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("exited process: got %v, want ESRCH", err)
	}
	if got, err := g.Of(gone.Process.Pid); err != nil || got != "" {
		t.Errorf("cgroup of an exited process: got %q, %v, want none", got, err)
	}
}

// Not even root can hide a process in a cgroup below a machine's cgroup.
func TestNoCgroupsBelow(t *testing.T) {
	g := openGroups(t)
	f, err := g.Ensure(id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Mkdir(f.Name()+"/below", 0o755); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("got %v, want EAGAIN", err)
	}
}

// Kill fails if a process cannot be killed. A process that version 1's freezer has
// frozen receives no signal until it is thawed; not every computer has that
// freezer.
func TestKillOfFrozenProcess(t *testing.T) {
	g := openGroups(t)
	pid := family(t, nil)
	if err := g.Add(id, pid); err != nil {
		t.Fatal(err)
	}
	thaw := cgroups.Freeze(t, pid)
	if err := g.Kill(t.Context(), id); err == nil || !strings.Contains(err.Error(), "a process is still alive") {
		t.Errorf("frozen: got %v, want an error", err)
	}
	if err := g.Remove(id); !errors.Is(err, unix.EBUSY) {
		t.Errorf("remove: got %v, want EBUSY", err)
	}
	thaw()
	if err := g.Kill(t.Context(), id); err != nil || cgroups.Alive(pid) {
		t.Errorf("thawed: got %v, alive %v, want nil and not alive", err, cgroups.Alive(pid))
	}
}

// An agent that has just started finds a machine in a Pod and kills it. The machine's cgroup
// does not prevent the removal of the Pod's cgroup.
func TestRealPod(t *testing.T) {
	pod, parent := cgroups.Pod(t), cgroups.Parent(t)
	open := func() *cgroup.Groups {
		g, err := cgroup.Open(parent)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := open()
	f, err := g.EnsureInPod(id, pod)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if missing, err := g.SetLimits(id, cgroup.Limits{MemoryBytes: 1 << 30, PIDs: 1000, CPUMillis: 2000}); err != nil {
		t.Errorf("limits: got missing %v, %v, want nil", missing, err)
	}
	pid := family(t, f)
	inContainer := forge(t, filepath.Join(filepath.Dir(f.Name()), "container", id))
	inPod := forge(t, filepath.Join(filepath.Dir(f.Name()), other))
	if err := os.Mkdir(f.Name()+"/below", 0o755); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a cgroup below the machine's: got %v, want EAGAIN", err)
	}
	g = open()
	if pids, err := g.Procs(id); err != nil || !slices.Contains(pids, pid) || slices.Contains(pids, inContainer) {
		t.Errorf("processes: got %v, %v, want %d and not %d", pids, err, pid, inContainer)
	}
	for p, want := range map[int]string{pid: id, inContainer: "", inPod: ""} {
		if got, err := g.Of(p); err != nil || got != want {
			t.Errorf("machine of %d: got %q, %v, want %q", p, got, err, want)
		}
	}
	for _, name := range []string{id, other} {
		if err := g.Kill(t.Context(), name); err != nil {
			t.Errorf("kill %s: got %v, want nil", name, err)
		}
	}
	if cgroups.Alive(pid) || !cgroups.Alive(inContainer) || !cgroups.Alive(inPod) {
		t.Errorf("alive: got %v, %v, %v, want only the machine's process killed", cgroups.Alive(pid), cgroups.Alive(inContainer), cgroups.Alive(inPod))
	}
	if err := g.RemoveFromPods(id); err != nil {
		t.Errorf("remove: got %v, want nil", err)
	}
	if _, err := os.Stat(f.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed: got %v, want ErrNotExist", err)
	}
}

// forge starts a process in a cgroup that nobody has marked. It returns its PID.
func forge(t *testing.T, dir string) int {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return family(t, f)
}

func TestInspect(t *testing.T) {
	g := openGroups(t)
	f, err := g.Ensure(id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := cgroup.Inspect()
	if err != nil || !got.Kill || got.Kernel == "" || !slices.IsSorted(got.Missing) {
		t.Errorf("got %+v, %v, want cgroups that can be killed", got, err)
	}
	t.Logf("%+v", got)
}
