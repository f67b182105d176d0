// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/test/cgroups"
	"botbottle.dev/bottle-operator/test/netns"
)

func TestCgroup(t *testing.T) {
	const id = "bottle-demo-1a2b3c4d"
	groups, err := cgroup.Open(cgroups.Parent(t))
	if err != nil {
		t.Fatal(err)
	}
	folder, err := groups.Ensure(id)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	file := netns.New(t)
	for what, cmd := range map[string]Command{
		"without a network namespace": {},
		"in a network namespace":      {NetNS: file},
	} {
		cmd.Path, cmd.Args, cmd.Cgroup = "/bin/sh", []string{"-c", "grep ^0:: /proc/self/cgroup; readlink /proc/self/ns/net"}, folder
		wantNS := linkOf(t, "/proc/self/ns/net")
		if cmd.NetNS != "" {
			wantNS = linkOf(t, file)
		}
		got, err := Exec{}.Run(t.Context(), cmd)
		if err != nil || !strings.Contains(string(got.Stdout), "/"+id+"\n") || !strings.HasSuffix(string(got.Stdout), wantNS+"\n") {
			t.Errorf("%s: got %q, %v, want cgroup %s and namespace %s", what, got.Stdout, err, id, wantNS)
		}
	}
	if id, err := groups.Of(os.Getpid()); err != nil || id != "" {
		t.Errorf("this process: got cgroup %q, %v, want none", id, err)
	}
	wantThreadsIn(t, linkOf(t, "/proc/self/ns/net"))
	if err := groups.Remove(id); err != nil {
		t.Fatal(err)
	}
	got, err := Exec{}.Run(t.Context(), Command{Path: "/bin/echo", Args: []string{"ran"}, Cgroup: folder})
	if err == nil || len(got.Stdout) > 0 {
		t.Errorf("removed cgroup: got %q, %v, want nothing started", got.Stdout, err)
	}
}

// A VMM must not inherit the agent's OOM protection. Lowering oom_score_adj takes
// a privilege that tests may not have. So the programs here always inherit 300,
// and the test fakes the value that this process reads as its own.
func TestProgramsDoNotInheritOOMProtection(t *testing.T) {
	const file = "/proc/self/oom_score_adj"
	was, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	adjust := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	adjust(file, "300")
	ownAdjust = filepath.Join(t.TempDir(), "own")
	t.Cleanup(func() {
		ownAdjust = file
		adjust(file, strings.TrimSpace(string(was)))
	})
	for own, want := range map[string]string{"-900": "0\n", "-1": "0\n", "0": "300\n", "300": "300\n"} {
		adjust(ownAdjust, own+"\n")
		got, err := Exec{}.Run(t.Context(), sh("sleep 0.2; cat "+file))
		if err != nil || string(got.Stdout) != want {
			t.Errorf("own value %s: got %q, %v, want %q", own, got.Stdout, err, want)
		}
	}
}
