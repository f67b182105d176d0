// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
	"botbottle.dev/bottle-operator/test/cgroups"
)

const podCgroup = "kubepods/pod1a2b3c4d-0000-4000-8000-0123456789ab"

// fakePod makes the driver's machines run in a Pod of a folder that only looks like a
// hierarchy, and returns the Pod's folder.
func fakePod(t *testing.T, c *cli, d *Driver) string {
	t.Helper()
	tree := t.TempDir()
	pod := filepath.Join(tree, podCgroup)
	if err := os.MkdirAll(pod, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{
		"cgroup.procs": "", "cgroup.controllers": "cpu memory pids", podCgroup + "/memory.max": fmt.Sprintln((1024 + 256) << 20),
	} {
		if err := os.WriteFile(filepath.Join(tree, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if d.groups.open, err = cgroup.At(tree, cgroup.DefaultParent, c.make); err != nil {
		t.Fatal(err)
	}
	d.opts.Parent = func(context.Context, string) (string, error) { return podCgroup, nil }
	return pod
}

func TestStartInPod(t *testing.T) {
	c, d := newCLI(t, "1.32.2")
	folder := filepath.Join(fakePod(t, c, d), victim)
	c.states[victim] = "created"
	if err := d.StartMachine(t.Context(), victim, ""); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(c.calls, func(call runner.Command) bool { return verb(call) == "start" })
	if got := c.calls[i].Cgroup.Name(); got != folder {
		t.Errorf("cgroup of the start: got %q, want %q", got, folder)
	}
	// 128 MiB of the Pod's memory are the bundle's.
	for file, want := range map[string]string{"memory.max": fmt.Sprint((1024 + 128) << 20), "pids.max": "2048", "cpu.max": "250000 100000"} {
		if got, err := os.ReadFile(filepath.Join(folder, file)); string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
		}
	}
	for lost, want := range map[string]string{"max\n": fmt.Sprint((1024 + 128) << 20), "4096\n": "4096\n"} {
		if err := os.WriteFile(filepath.Join(folder, "memory.max"), []byte(lost), 0o644); err != nil {
			t.Fatal(err)
		}
		d.keepLimits(host.Machine{Name: victim, State: host.MachineRunning, MemoryMiB: 1024})
		if got, err := os.ReadFile(filepath.Join(folder, "memory.max")); string(got) != want {
			t.Errorf("memory.max was %q: got %q, %v, want %q", lost, got, err, want)
		}
	}
	d.opts.BundleMemory = func(string) int64 { return 192 << 20 }
	if err := os.WriteFile(filepath.Join(folder, "memory.max"), []byte("max\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.keepLimits(host.Machine{Name: victim, State: host.MachineRunning, MemoryMiB: 1024})
	if got, err := os.ReadFile(filepath.Join(folder, "memory.max")); string(got) != fmt.Sprint((1024+64)<<20) {
		t.Errorf("with a bundle of 192 MiB: got %q, %v, want 1088 MiB", got, err)
	}
	if err := d.StopMachine(t.Context(), victim); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stopped: got %v, want no cgroup in the Pod", err)
	}
}

func TestNoStartWithoutPod(t *testing.T) {
	for name, parent := range map[string]func() (string, error){
		"no Pod":              func() (string, error) { return "", fmt.Errorf("no sandbox: %w", host.ErrNotFound) },
		"no answer":           func() (string, error) { return "", context.DeadlineExceeded },
		"a Pod that has gone": func() (string, error) { return strings.Replace(podCgroup, "1a2b", "ffff", 1), nil },
		"not a Pod":           func() (string, error) { return "kubepods", nil },
	} {
		c, d := newCLI(t, "1.32.2")
		fakePod(t, c, d)
		d.opts.Parent = func(context.Context, string) (string, error) { return parent() }
		c.states[victim] = "created"
		if err := d.StartMachine(t.Context(), victim, ""); !errors.Is(err, host.ErrUnavailable) || errors.Is(err, host.ErrNotFound) {
			t.Errorf("%s: got %v, want ErrUnavailable and not ErrNotFound", name, err)
		}
		if slices.Contains(c.verbs(), "start") {
			t.Errorf("%s: got a start, want none", name)
		}
	}
}

func TestLimitsInPod(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct{ machine, pod, bundle, want int64 }{
		{1024, 0, 128, 1536}, // no limit of the Pod
		{1024, 1280, 128, 1152},
		{1024, 4096, 128, 1536}, // more room than a VMM needs
		{1024, 1100, 128, 1088}, // too little room: the machine must still boot
		{0, 1280, 128, 0},       // unknown size
	} {
		m := host.Machine{MemoryMiB: tt.machine}
		if got := inPod(limitsOf(m), m, tt.pod*mib, tt.bundle*mib).MemoryBytes; got != tt.want*mib {
			t.Errorf("%+v: got %d MiB", tt, got/mib)
		}
	}
}

// The driver after a restart of the agent finds and kills what the one before started in a
// Pod, in two Pods, and strays; it asks nobody where they are.
func TestMachinesInPods(t *testing.T) {
	_, d := newNode(t, "1.32.2")
	makeFolder(t, d, victim, 0)
	pods := []string{cgroups.Pod(t), cgroups.Pod(t)}
	slices.Sort(pods) // the order in which they are found
	var vmms []process
	for _, pod := range pods { // a machine in two Pods: the agent ended before it removed the first
		d.groups.open = nil
		g, err := d.cgroups()
		if err != nil {
			t.Fatal(err)
		}
		folder, err := g.EnsureInPod(victim, pod)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := spawnBy(t, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}, "_boot-vm", "x")
		folder.Close()
		vmms = append(vmms, p)
	}
	d.opts.Parent = func(context.Context, string) (string, error) {
		t.Error("Parent was called by another call than a start")
		return "", errors.New("it does not answer")
	}
	d.groups.open = nil
	wantPIDs(t, d, victim, vmms[0].pid, vmms[1].pid)
	if !d.owns(victim, vmms[0]) || d.owns(neighbour, vmms[1]) {
		t.Error("owns: got another machine, want the one of the cgroup")
	}
	stray, _ := spawnFrom(t, d.binary(), nil, "_boot-vm", d.dataDir(victim)+"/boot-config.json")
	wantPIDs(t, d, victim, stray.pid, vmms[0].pid, vmms[1].pid)
	d.groups.open = nil
	if err := d.KillMachine(t.Context(), victim); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	for _, p := range append(vmms, stray) {
		wantAlive(t, "killed", p, false)
	}
	wantPIDs(t, d, victim)
	mount, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		if _, err := os.Stat(filepath.Join(mount, pod, victim)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("killed: got %v, want no cgroup in the Pod", err)
		}
	}
}

// A VMM that its Pod takes along is not there, without an error.
func TestPodTakesMachineAlong(t *testing.T) {
	c, d := newNode(t, "1.32.2")
	d.runner = booting{c, d}
	t.Run("with the Pod", func(t *testing.T) {
		pod := cgroups.Pod(t) // its cleanup does what kubelet does
		d.opts.Parent = func(context.Context, string) (string, error) { return pod, nil }
		c.states[victim] = "created"
		if err := d.StartMachine(t.Context(), victim, ""); err != nil {
			t.Fatal(err)
		}
		p, err := readPIDFile(d.dataDir(victim) + "/agent.pid")
		if err != nil {
			t.Fatal(err)
		}
		wantPIDs(t, d, victim, p.pid)
	})
	wantPIDs(t, d, victim)
	if err := d.KillMachine(t.Context(), victim); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	if err := d.StartMachine(t.Context(), victim, ""); err == nil {
		t.Error("start without the Pod: got nil, want an error")
	}
}
