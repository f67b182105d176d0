// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const id = "bottle-demo-1a2b3c4d"

func TestParseMounts(t *testing.T) {
	const (
		v1      = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
		hybrid  = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
		part    = "99 23 0:26 /system.slice /mnt/part rw - cgroup2 cgroup2 rw\n"
		odd     = "98 23 0:26 / /mnt/with\\040space rw - cgroup2 none rw\n"
	)
	tests := map[string]struct {
		in   string
		want hierarchy
		ok   bool
	}{
		"unified":                {unified, hierarchy{"/sys/fs/cgroup", "/"}, true},
		"hybrid":                 {v1 + hybrid, hierarchy{"/sys/fs/cgroup/unified", "/"}, true},
		"only version 1":         {v1, hierarchy{}, false},
		"nothing":                {"", hierarchy{}, false},
		"malformed":              {"x\n - cgroup2\n- - -\n", hierarchy{}, false},
		"a part, then the whole": {part + unified, hierarchy{"/sys/fs/cgroup", "/"}, true},
		"the whole, then a part": {unified + part, hierarchy{"/sys/fs/cgroup", "/"}, true},
		"only a part":            {part, hierarchy{"/mnt/part", "/system.slice"}, true},
		"unusual and usual path": {odd + unified, hierarchy{"/sys/fs/cgroup", "/"}, true},
		"unusual path":           {odd, hierarchy{"/mnt/with space", "/"}, true},
	}
	for name, tt := range tests {
		got, ok := parseMounts(tt.in)
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %+v, %v, want %+v, %v", name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestParseMembership(t *testing.T) {
	for in, want := range map[string]string{
		"9:name=systemd:/x\n0::/bottle.slice/" + id + "\n": id,
		"0::/bottle.slice/" + id + "/below\n":              id,
		"0::/bottle.slice/" + id + " (deleted)\n":          id,
		"0::/\n":                                    "",
		"0::/bottle.slice\n":                        "",
		"0::/bottle.slice/image-seed\n":             "",
		"0::/bottle.slice.evil/" + id + "\n":        "",
		"0::/user.slice/bottle.slice/" + id + "\n":  "",
		"1:name=x:/bottle.slice/" + id + "\n0::/\n": "",
		"0::/system.slice/bottle-agent.service\n":   "",
		"":                                 "",
		"0::/../bottle.slice/" + id + "\n": "",
		"4:memory:/bottle.slice/" + id + "\n0::/a/" + id:    "",
		"0::/bottle.slice/bottle-other-1a2b3c4d\n2:cpu:/\n": "bottle-other-1a2b3c4d",
	} {
		g, err := open(hierarchy{"/nonexistent", "/"}, DefaultParent)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.parseMembership(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	g, err := open(hierarchy{"/sys/fs/cgroup", "/docker/abc"}, "a.slice/b.slice")
	if err != nil {
		t.Fatal(err)
	}
	if got := g.parseMembership("0::/docker/abc/a.slice/b.slice/" + id + "\n"); got != id {
		t.Errorf("below another root: got %q, want %q", got, id)
	}
}

func TestKernelThreads(t *testing.T) {
	// Field 9: 2129984 and 69238848 contain the flag, 4194560 does not.
	for in, want := range map[string]bool{
		"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 2":                   true,
		"88 (vhost-4711) S 2 0 0 0 -1 69238848 0 0 0 0 0 0":               true,
		"4711 (smolvm) S 1 4711 4711 0 -1 4194560 2 0 0 0":                false,
		"4711 (x) S 0 0 0 0 -1 2129984 0 0) S 1 4711 4711 0 -1 4194560 2": false,
		"4711 (short) S 1": false,
		"":                 false,
	} {
		if got := IsKernelThread([]byte(in)); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	g, root := fake(t, "")
	for _, name := range []string{"", "..", "demo", "bottle-", "bottle-a/../b", "bottle-a/b", "bottle-a.b", "bottle-\x00", "/bottle-a", "bottle-a\n", "image-seed-1", "bottle-" + strings.Repeat("x", 200)} {
		_, ensure := g.Ensure(name)
		_, procs := g.Procs(name)
		_, populated := g.Populated(name)
		_, limits := g.SetLimits(name, Limits{PIDs: 1})
		for what, err := range map[string]error{
			"ensure": ensure, "procs": procs, "populated": populated, "limits": limits,
			"add": g.Add(name, os.Getpid()), "kill": g.Kill(t.Context(), name), "remove": g.Remove(name),
		} {
			if err == nil || !strings.Contains(err.Error(), "not a machine's name") {
				t.Errorf("%s %q: got %v, want an error about the name", what, name, err)
			}
		}
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 3 {
		t.Errorf("afterwards: got %v, %v, want no new files", entries, err)
	}
	for name, want := range map[string]bool{
		DefaultParent: true, "bottle-dev-node-1.slice": true, "a.slice/b.slice": true,
		"": false, "/a": false, "..": false, "a/../b": false, "a/": false, "a//b": false, "a b": false, ".hidden": false,
	} {
		if got := ValidParent(name); got != want {
			t.Errorf("parent %q: got %v, want %v", name, got, want)
		}
	}
}

// fake returns a folder with the files of a hierarchy that has these controllers,
// and Groups in it.
func fake(t *testing.T, controllers string) (*Groups, string) {
	t.Helper()
	root := t.TempDir()
	g, err := open(hierarchy{root, "/"}, "p.slice")
	if err != nil {
		t.Fatal(err)
	}
	put(t, root, map[string]string{"cgroup.procs": "", "cgroup.controllers": controllers + "\n", "cgroup.subtree_control": ""})
	return g, root
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The test imitates the kernel's files, because a computer with a hybrid layout
// has no controllers to test with.
func TestLimitsWithControllers(t *testing.T) {
	g, root := fake(t, "cpuset cpu io memory pids")
	parent, leaf := filepath.Join(root, "p.slice"), filepath.Join(root, "p.slice", id)
	put(t, root, map[string]string{"cgroup.subtree_control": "memory pids cpu"})
	put(t, parent, map[string]string{"cgroup.controllers": "memory pids", "cgroup.subtree_control": "memory"})
	put(t, leaf, map[string]string{"memory.max": "max", "pids.max": "max", "cpu.max": "max 100000"})
	missing, err := g.SetLimits(id, Limits{MemoryBytes: 1 << 30, PIDs: 100, CPUMillis: 1500})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cpu"}, missing); diff != "" { // not available in the parent
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	for file, want := range map[string]string{
		"memory.max": "1073741824", "pids.max": "100", "cpu.max": "max 100000",
		"../cgroup.subtree_control": "+pidsy", // the write replaces part of a plain file; the kernel would add the controller
	} {
		if got := content(t, filepath.Join(leaf, file)); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	put(t, parent, map[string]string{"cgroup.controllers": "memory pids cpu", "cgroup.subtree_control": "memory pids cpu"})
	if missing, err = g.SetLimits(id, Limits{CPUMillis: 1500}); err != nil || len(missing) > 0 {
		t.Errorf("all controllers: got %v, %v, want none missing", missing, err)
	}
	if got := content(t, filepath.Join(leaf, "cpu.max")); got != "150000 100000" {
		t.Errorf("cpu.max: got %q, want 150000 100000", got)
	}
	if got := content(t, filepath.Join(leaf, "memory.max")); got != "1073741824" {
		t.Errorf("memory.max: got %q, want a zero limit to leave it unchanged", got)
	}
}

func TestLimitsWithoutControllers(t *testing.T) {
	g, root := fake(t, "hugetlb")
	put(t, filepath.Join(root, "p.slice", id), nil)
	missing, err := g.SetLimits(id, Limits{MemoryBytes: 1, PIDs: 1, CPUMillis: 1})
	if diff := cmp.Diff([]string{"cpu", "memory", "pids"}, missing); err != nil || diff != "" {
		t.Errorf("got %v, missing (-want +got):\n%s", err, diff)
	}
}

func TestKillGivesUp(t *testing.T) {
	g, root := fake(t, "")
	dir := filepath.Join(root, "p.slice", id)
	put(t, dir, map[string]string{"cgroup.events": "populated 1\nfrozen 0\n", "cgroup.kill": "", "cgroup.procs": ""})
	g.patience = 300 * time.Millisecond
	if err := g.Kill(t.Context(), id); err == nil || !strings.Contains(err.Error(), "a process is still alive 300ms after SIGKILL") {
		t.Errorf("got %v, want an error: a process is still alive", err)
	}
	if got := content(t, filepath.Join(dir, "cgroup.kill")); got != "1" {
		t.Errorf("cgroup.kill: got %q, want 1", got)
	}
	g.patience = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := g.Kill(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("context ended: got %v, want DeadlineExceeded", err)
	}
	put(t, dir, map[string]string{"cgroup.events": "frozen 0\n"})
	if err := g.Kill(t.Context(), id); err == nil {
		t.Error("no populated line: got nil, want an error")
	}
	put(t, dir, map[string]string{"cgroup.events": "populated 1\n"})
	if err := os.Remove(filepath.Join(dir, "cgroup.kill")); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(t.Context(), id); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kernel without cgroup.kill: got %v, want ErrNotExist", err)
	}
}

// A folder that is not a cgroup, or a hierarchy that was unmounted, must not look
// like an empty cgroup.
func TestNonCgroupIsNotEmpty(t *testing.T) {
	g, root := fake(t, "")
	if populated, err := g.Populated(id); err != nil || populated {
		t.Errorf("absent: got %v, %v, want false", populated, err)
	}
	if err := g.Kill(t.Context(), id); err != nil {
		t.Errorf("kill absent: got %v, want nil", err)
	}
	if pids, err := g.Procs(id); err != nil || len(pids) > 0 {
		t.Errorf("absent: got %v, %v, want no processes", pids, err)
	}
	wantErrors := func(when string) {
		t.Helper()
		_, populated := g.Populated(id)
		_, procs := g.Procs(id)
		for what, err := range map[string]error{"populated": populated, "procs": procs, "kill": g.Kill(t.Context(), id)} {
			if err == nil {
				t.Errorf("%s, %s: got nil, want an error", when, what)
			}
		}
	}
	put(t, filepath.Join(root, "p.slice", id), nil)
	wantErrors("a plain folder")
	if err := os.RemoveAll(filepath.Join(root, "p.slice")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(root, "cgroup.procs")); err != nil {
		t.Fatal(err)
	}
	wantErrors("unmounted")
}
