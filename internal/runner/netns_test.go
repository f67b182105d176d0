// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/netns"
	"botbottle.dev/bottle-operator/test/require"
)

func linkOf(t *testing.T, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNetNS(t *testing.T) {
	file := netns.New(t)
	own, inside := linkOf(t, "/proc/self/ns/net"), linkOf(t, file)
	if own == inside {
		t.Fatalf("new namespace: got this process's namespace, %s", own)
	}
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			want, cmd := own, Command{Path: "/bin/readlink", Args: []string{"/proc/self/ns/net"}}
			if i%2 == 0 {
				want, cmd.NetNS = inside, file
			}
			got, err := Exec{}.Run(t.Context(), cmd)
			for err == nil && got.Truncated { // this process was not scheduled for pipeDelay
				got, err = Exec{}.Run(t.Context(), cmd)
			}
			if err != nil || strings.TrimSpace(string(got.Stdout)) != want {
				t.Errorf("in %q: got %q, %v, want %s", cmd.NetNS, got.Stdout, err, want)
			}
		})
	}
	all.Wait()
	wantThreadsIn(t, own)
}

// wantThreadsIn checks that every thread of this process is in one namespace. It
// waits for threads that entered another namespace to end.
func wantThreadsIn(t *testing.T, own string) {
	t.Helper()
	strays := map[string]string{"?": "?"}
	for end := time.Now().Add(10 * time.Second); len(strays) > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		links, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil || len(links) == 0 {
			t.Fatalf("threads: got %v, %v, want some", links, err)
		}
		strays = map[string]string{}
		for _, l := range links {
			if got, err := os.Readlink(l); err == nil && got != own {
				strays[l] = got
			}
		}
	}
	if len(strays) > 0 {
		t.Errorf("threads outside %s: got %v, want none", own, strays)
	}
}

func TestInvalidNetNS(t *testing.T) {
	require.Root(t)
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, file := range map[string]string{
		"absent": plain + "-absent", "plain file": plain, "folder": filepath.Dir(plain), "uts namespace": "/proc/self/ns/uts",
	} {
		got, err := Exec{}.Run(t.Context(), Command{Path: "/bin/echo", Args: []string{"ran"}, NetNS: file})
		var run *Error
		if !errors.Is(err, ErrNetNS) || !errors.As(err, &run) || run.Started || len(got.Stdout) > 0 || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %q, %v, want nothing started and an error with the path", what, got.Stdout, err)
		}
	}
	wantThreadsIn(t, linkOf(t, "/proc/self/ns/net"))
}
