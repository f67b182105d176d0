// SPDX-License-Identifier: Apache-2.0

// Package cgroups provides tests with their own part of the unified hierarchy
// (cgroup v2), and with attacks on the identification of processes by cgroup.
package cgroups

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/test/require"
)

// Parent returns the name of a parent for the cgroups of machines. When the test
// ends, Parent kills the processes that are left in it and removes it. It needs
// root and cgroup v2.
func Parent(t testing.TB) string {
	t.Helper()
	require.Root(t)
	mount, err := cgroup.Mounted()
	if err != nil {
		require.Unmet(t, err.Error())
	}
	name := "bottle-test-" + strings.ToLower(rand.Text()[:10]) + ".slice"
	dir := filepath.Join(mount, name)
	t.Cleanup(func() {
		if _, err := os.Stat(dir); err != nil {
			return
		}
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		for range 500 {
			if remove(dir) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("remove %s: got %v, want no process in it", dir, remove(dir))
	})
	return name
}

// Pod creates an empty cgroup that looks like a Pod's, and returns its path below the mount.
// When the test ends, the processes in it are killed and it is removed, as the kubelet does
// at the end of a Pod.
func Pod(t testing.TB) string {
	t.Helper()
	random := fmt.Sprintf("%x", rand.Text()) // hexadecimal digits
	pod := filepath.Join(Parent(t), "kubepods", fmt.Sprintf("pod%s-%s-%s-%s-%s", random[:8], random[8:12], random[12:16], random[16:20], random[20:32]))
	mount, err := cgroup.Mounted()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(mount, pod), 0o755); err != nil {
		t.Fatal(err)
	}
	return pod
}

// remove removes a cgroup and its descendants.
func remove(dir string) error {
	return errors.Join(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && path != dir {
			_ = remove(path)
			return fs.SkipDir
		}
		return nil
	}), syscall.Rmdir(dir))
}

// RewriteArgv makes a process look as if it had been started with another command
// line. The text is cut to the length of the process's own command line. A program
// can do the same to itself.
func RewriteArgv(t testing.TB, pid int, text string) {
	t.Helper()
	proc := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	start, end := number(t, fields[45]), number(t, fields[46]) // fields 48 and 49
	mem, err := os.OpenFile(proc+"/mem", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	argv := make([]byte, end-start)
	copy(argv[:len(argv)-1], text)
	if _, err := mem.WriteAt(argv, start); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(proc + "/cmdline")
	if want := string(argv[:min(len(text), len(argv)-1)]); err != nil || !strings.HasPrefix(string(got), want) {
		t.Fatalf("rewritten argv: got %q, %v, want %q", got, err, want)
	}
}

func number(t testing.TB, word string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Nobody is the user ID for look-alikes.
const Nobody = 65534

// LookAlike starts a shell as the given user, makes its command line exactly argv
// and returns its PID. The shell ends with the test.
func LookAlike(t testing.TB, user uint32, argv ...string) int {
	t.Helper()
	// The shell must have read its own arguments before they are overwritten.
	cmd := &exec.Cmd{Path: "/bin/sh", Args: append([]string{argv[0], "-c", "echo ready; read end"}, argv[1:]...), Dir: "/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if word, err := io.ReadAll(io.LimitReader(out, 6)); string(word) != "ready\n" {
		t.Fatalf("the look-alike: got %q, %v, want it ready", word, err)
	}
	RewriteArgv(t, cmd.Process.Pid, strings.Join(argv, "\x00"))
	return cmd.Process.Pid
}

// Alive reports whether a process is running. A zombie is not.
func Alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}

// Freeze makes a process immune to every signal, including SIGKILL, until thaw is
// called or the test ends. Only the freezer of cgroup version 1 can do that.
func Freeze(t testing.TB, pid int) (thaw func()) {
	t.Helper()
	const freezer = "/sys/fs/cgroup/freezer"
	if _, err := os.Stat(freezer + "/cgroup.procs"); err != nil {
		require.Unmet(t, "needs the freezer of cgroup version 1")
	}
	dir := filepath.Join(freezer, "bottle-test-"+strings.ToLower(rand.Text()[:10]))
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	thaw = func() { _ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0) }
	t.Cleanup(func() {
		thaw()
		_ = os.WriteFile(filepath.Join(freezer, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		for range 500 {
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s: got it still in use, want it empty", dir)
	})
	write("cgroup.procs", strconv.Itoa(pid))
	write("freezer.state", "FROZEN")
	for range 500 {
		if b, err := os.ReadFile(filepath.Join(dir, "freezer.state")); err == nil && string(b) == "FROZEN\n" {
			return thaw
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("process %d did not freeze", pid)
	return nil
}
