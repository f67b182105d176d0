// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	podUID     = "1a2b3c4d-0000-4000-8000-0123456789ab"
	pod        = "kubepods/pod" + podUID
	systemdPod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b3c4d_0000_4000_8000_0123456789ab.slice"
)

func TestValidPod(t *testing.T) {
	const slicePod = "pod1a2b3c4d_0000_4000_8000_0123456789ab.slice"
	for path, want := range map[string]bool{
		pod:                                   true,
		"kubepods/burstable/pod" + podUID:     true,
		"kubepods/besteffort/pod" + podUID:    true,
		"kubelet/kubepods/pod" + podUID:       true,
		"kubepods.slice/kubepods-" + slicePod: true,
		systemdPod:                            true,
		"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-" + slicePod: true,

		"":                             false,
		"kubepods":                     false,
		"/" + pod:                      false,
		pod + "/":                      false,
		pod + "/0123abc":               false,
		"kubepods/other/pod" + podUID:  false,
		"kubepods/pod1":                false,
		"kubepods/pod../x":             false,
		"pod" + podUID:                 false,
		"a/b/" + pod:                   false,
		"../" + pod:                    false,
		pod + "/cri-1/" + pod:          false,
		"kubepods.slice/pod" + podUID:  false,
		"kubepods-" + slicePod:         false,
		"x.slice/kubepods-" + slicePod: false,
		"kubepods.slice/kubepods-pod" + podUID + ".slice":                          false,
		"kubepods.slice/kubepods-other.slice/kubepods-other-" + slicePod:           false,
		"kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-" + slicePod:  false,
		"kubepods.slice/kubepods-burstable.slice/x/kubepods-burstable-" + slicePod: false,
	} {
		if got := ValidPod(path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}

// fakePods returns a folder with the files of a hierarchy, in which kubelet has made these
// Pods' cgroups, and Groups in it.
func fakePods(t *testing.T, pods ...string) (*Groups, string) {
	t.Helper()
	root := t.TempDir()
	all := map[string]string{"cgroup.procs": "", "cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu memory pids"}
	put(t, root, all)
	for _, p := range pods {
		put(t, filepath.Join(root, p), all)
	}
	return again(t, root), root
}

// again returns Groups that have no memory, as after a restart of the agent.
func again(t *testing.T, root string) *Groups {
	t.Helper()
	g, err := At(root, "p.slice", func(dir string) error {
		put(t, dir, map[string]string{"cgroup.procs": "", "cgroup.events": "populated 0\n", "cgroup.kill": "", "memory.max": "max", "pids.max": "max", "cpu.max": "max"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func place(t *testing.T, g *Groups, id, pod string) {
	t.Helper()
	f, err := g.EnsureInPod(id, pod)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func wantProcs(t *testing.T, g *Groups, id string, want ...int) {
	t.Helper()
	got, err := g.AppendMembers(nil, id)
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("processes of %s: %v (-want +got):\n%s", id, err, d)
	}
}

func TestInPod(t *testing.T) {
	for _, pod := range []string{pod, systemdPod, "kubepods/burstable/pod" + podUID, "kubelet/" + pod, "a.slice/" + pod} {
		g, root := fakePods(t, pod)
		place(t, g, id, pod)
		put(t, filepath.Join(root, pod, id), map[string]string{"cgroup.procs": "4711\n", "cgroup.events": "populated 1\n"})
		for when, g := range map[string]*Groups{"before": g, "after a restart": again(t, root)} {
			wantProcs(t, g, id, 4711)
			if populated, err := g.Populated(id); err != nil || !populated {
				t.Errorf("%s, %s: got populated %v, %v, want true", pod, when, populated, err)
			}
			if got := g.parseMembership("0::/" + pod + "/" + id + "\n"); got != id {
				t.Errorf("%s, %s: got machine %q, want %q", pod, when, got, id)
			}
			if ids, err := g.List(); err != nil || !cmp.Equal(ids, []string{id}) {
				t.Errorf("%s, %s: got list %q, %v, want %q", pod, when, ids, err, id)
			}
		}
		if err := again(t, root).Remove(id); err != nil {
			t.Errorf("%s: remove: got %v, want nil", pod, err)
		}
		if left, err := filepath.Glob(filepath.Join(root, pod, "bottle-*")); err != nil || len(left) > 0 {
			t.Errorf("%s: removed: got %q, %v, want none left", pod, left, err)
		}
		wantProcs(t, g, id)
		if ids, err := g.List(); err != nil || len(ids) > 0 {
			t.Errorf("%s: removed: got list %q, %v, want none", pod, ids, err)
		}
	}
}

func TestEnsureInPodRefuses(t *testing.T) {
	g, root := fakePods(t, pod)
	for _, parent := range []string{"", "elsewhere", "/" + pod, pod + "/container", "../" + pod} {
		if _, err := g.EnsureInPod(id, parent); err == nil || !strings.Contains(err.Error(), "not a path at which the kubelet puts") {
			t.Errorf("%q: got %v, want an error about the place", parent, err)
		}
	}
	if _, err := g.EnsureInPod("../x", pod); err == nil {
		t.Error("a path as the id: got nil, want an error")
	}
	// The Pod has gone. Its cgroup would stay for ever if it were created again.
	if err := os.RemoveAll(filepath.Join(root, pod)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.EnsureInPod(id, pod); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the Pod: got %v, want ErrNotExist", err)
	}
	if _, err := os.Stat(filepath.Join(root, pod)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the Pod's cgroup: got %v, want it not created", err)
	}
}

// A container can create cgroups of any name below its own, and other agents can have
// machines in Pods.
func TestForgedCgroupsAreNoMachines(t *testing.T) {
	g, root := fakePods(t, pod)
	procs := map[string]string{"cgroup.procs": "4711\n", "cgroup.events": "populated 1\n"}
	forged := []string{
		pod + "/" + id,                          // without the mark
		pod + "/container/" + id,                // by a container
		pod + "/container/" + pod + "/" + id,    // the same
		"user.slice/u.slice/" + pod + "/" + id,  // by a user
		"kubepods/" + id, "kubepods/pods/" + id, // not in a Pod
	}
	for i, path := range forged {
		put(t, filepath.Join(root, path), procs)
		if i > 0 { // even with the mark
			if err := g.setMark(filepath.Join(root, path), "p.slice"); err != nil {
				t.Fatal(err)
			}
		}
	}
	other := "kubepods/burstable/pod" + podUID
	put(t, filepath.Join(root, other, id), procs)
	if err := g.setMark(filepath.Join(root, other, id), "other.slice"); err != nil {
		t.Fatal(err)
	}
	wantProcs(t, g, id)
	if ids, err := g.List(); err != nil || len(ids) > 0 {
		t.Errorf("list: got %q, %v, want none", ids, err)
	}
	if err := g.Kill(t.Context(), id); err != nil {
		t.Errorf("kill: got %v, want nil", err)
	}
	for _, path := range append(forged, other+"/"+id) {
		if got := g.parseMembership("0::/" + path + "\n"); got != "" {
			t.Errorf("%s: got machine %q, want none", path, got)
		}
	}
}

// A machine can have processes that an earlier Pod of the Bottle left behind.
func TestMachineInTwoPods(t *testing.T) {
	const next = "kubepods/pod99999999-0000-4000-8000-0123456789ab"
	g, root := fakePods(t, pod, next)
	place(t, g, id, pod)
	if populated, err := g.Populated(id); err != nil || populated {
		t.Errorf("empty: got populated %v, %v, want false", populated, err)
	}
	place(t, again(t, root), id, next) // of which g does not know
	put(t, filepath.Join(root, next, id), map[string]string{"cgroup.events": "populated 1\n"})
	if populated, err := g.Populated(id); err != nil || !populated {
		t.Errorf("only the other Pod: got populated %v, %v, want true", populated, err)
	}
	delete(g.pods, id)
	for path, pid := range map[string]string{pod: "11", next: "22"} {
		put(t, filepath.Join(root, path, id), map[string]string{"cgroup.procs": pid + "\n", "cgroup.events": "populated 1\n"})
	}
	wantProcs(t, again(t, root), id, 11, 22)
	g.patience = 10 * time.Millisecond
	if err := g.Kill(t.Context(), id); err == nil || strings.Count(err.Error(), "still alive") != 2 {
		t.Errorf("kill: got %v, want an error for each cgroup", err)
	}
	for _, path := range []string{pod, next} {
		if got := content(t, filepath.Join(root, path, id, "cgroup.kill")); got != "1" {
			t.Errorf("%s: got cgroup.kill %q, want 1", path, got)
		}
	}
	if err := os.RemoveAll(filepath.Join(root, pod)); err != nil { // kubelet
		t.Fatal(err)
	}
	wantProcs(t, g, id, 22)
	if err := g.RemoveFromPods(id); err != nil || len(g.pods) > 0 {
		t.Errorf("remove: got %v and memory of %v, want nil and none", err, g.pods)
	}
	wantProcs(t, g, id)
}

// Only the Pod's own cgroup.subtree_control may change: the rest is kubelet's.
func TestLimitsInPod(t *testing.T) {
	g, root := fakePods(t, pod)
	put(t, root, map[string]string{"cgroup.subtree_control": ""})
	put(t, filepath.Join(root, pod), map[string]string{"cgroup.subtree_control": "cpu pids", "memory.max": "5000\n"})
	place(t, g, id, pod)
	limits := Limits{MemoryBytes: 4000, PIDs: 100, CPUMillis: 1500}
	for control, l := range map[string]Limits{"cpu pids": {PIDs: 100, CPUMillis: 1500}, "": {MemoryBytes: 4000}} {
		put(t, filepath.Join(root, pod), map[string]string{"cgroup.subtree_control": control})
		if missing, err := g.SetLimits(id, l); err != nil || len(missing) > 0 {
			t.Errorf("limits: got missing %q, %v, want none", missing, err)
		}
		want := control
		if control == "" {
			want = "+memory"
		}
		if got := content(t, filepath.Join(root, pod, "cgroup.subtree_control")); got != want {
			t.Errorf("the Pod's cgroup.subtree_control: got %q, want %q", got, want)
		}
	}
	for file, want := range map[string]string{
		pod + "/" + id + "/memory.max": "4000", pod + "/" + id + "/pids.max": "100", pod + "/" + id + "/cpu.max": "150000 100000",
		pod + "/memory.max": "5000\n", "cgroup.subtree_control": "",
	} {
		if got := content(t, filepath.Join(root, file)); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	if got, unlimited, err := g.PodMemory(id); err != nil || got != 5000 || unlimited {
		t.Errorf("the Pod's memory: got %d, machine unlimited %v, %v, want 5000 and false", got, unlimited, err)
	}
	if got, unlimited, err := g.PodMemory("bottle-other-1a2b3c4d"); err != nil || got != 0 || unlimited {
		t.Errorf("in no Pod: got %d, machine unlimited %v, %v, want 0 and false", got, unlimited, err)
	}
	put(t, filepath.Join(root, pod), map[string]string{"cgroup.controllers": "cpu pids", "cgroup.subtree_control": "cpu pids", "memory.max": "max\n"})
	if missing, err := g.SetLimits(id, limits); err == nil {
		t.Errorf("a Pod without the node's memory controller: got missing %q, want an error", missing)
	}
	put(t, filepath.Join(root, pod, id), map[string]string{"memory.max": "max\n"})
	if got, unlimited, err := g.PodMemory(id); err != nil || got != 0 || !unlimited {
		t.Errorf("no limits: got %d, machine unlimited %v, %v, want 0 and true", got, unlimited, err)
	}
	put(t, root, map[string]string{"cgroup.controllers": "cpu pids"})
	if missing, err := g.SetLimits(id, limits); err != nil || !cmp.Equal(missing, []string{"memory"}) {
		t.Errorf("a node without memory controller: got missing %q, %v, want memory", missing, err)
	}
}
