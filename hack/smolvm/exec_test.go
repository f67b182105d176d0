// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/require"
)

// worldWithRunningMachine returns a world with a started machine "m1".
func worldWithRunningMachine(t *testing.T, version string, create ...string) *world {
	t.Helper()
	require.Root(t)
	w := newWorld(t, version)
	name := []string{"--name", "m1"}
	if version == "0.8.0" {
		name = name[1:]
	}
	w.ok(append(append([]string{"machine", "create"}, name...), create...)...)
	w.ok("machine", "start", "--name", "m1")
	return w
}

func TestExitCodes(t *testing.T) {
	bare, old := worldWithRunningMachine(t, "1.32.2"), worldWithRunningMachine(t, "0.8.0")
	boxed := newWorld(t, "1.32.2")
	boxed.ok("machine", "create", "--name", "m1", "--image", boxed.image(`{"config":{"User":"worker"}}`))
	boxed.ok("machine", "start", "--name", "m1")
	for _, c := range []struct {
		name string
		w    *world
		argv string
		want int
	}{
		{"exit code of the command", bare, "-- sh -c|exit 42", 42},
		{"killed", bare, "-- sh -c|kill -9 $$", 137},
		{"terminated", boxed, "-- sh -c|kill -15 $$", 143},
		{"killed, 0.8.0", old, "-- sh -c|kill -9 $$", 255},
		{"timeout", bare, "--timeout 200ms -- sleep 60", 124},
		{"no such program in an image", boxed, "-- nope", 255},
		{"no such path in an image", boxed, "-- /bin/nope", 255},
		{"no such program, 0.8.0", old, "-- nope", 1},
		{"success", boxed, "-- true", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags, script, _ := strings.Cut(c.argv, "|")
			argv := append([]string{"machine", "exec", "--name", "m1"}, strings.Fields(flags)...)
			if script != "" {
				argv = append(argv, script)
			}
			start := time.Now()
			r := c.w.run(argv...)
			if r.code != c.want {
				t.Errorf("got rc %d, %s, want %d", r.code, r.errors, c.want)
			}
			if c.want == 124 && time.Since(start) > patience {
				t.Errorf("timeout took %v, want less than the command", time.Since(start))
			}
		})
	}
	if got := boxed.ok("machine", "exec", "--name", "m1", "--", "id", "-u"); got != "1000\n" {
		t.Errorf("user: got %s, want the image's user", got)
	}
	if got := boxed.ok("machine", "exec", "--name", "m1", "-u", "0", "-w", "/etc", "-e", "X=1", "--", "sh", "-c", "id -u; pwd; echo $X"); got != "0\n/etc\n1\n" {
		t.Errorf("got %q, want the user, folder and variable from the flags", got)
	}
}

func TestExecStreams(t *testing.T) {
	w := worldWithRunningMachine(t, "1.32.2")
	r := w.run("machine", "exec", "--name", "m1", "--", "sh", "-c", "echo out; echo err >&2; cat")
	if r != (result{0, "out\n", "err\n"}) {
		t.Errorf("got %+v, want separate streams and an empty stdin", r)
	}
	content := bytes.Repeat([]byte("0123456789abcdef\x00\xff\r\n"), 1_000_000) // 20 MB
	c := w.command("machine", "exec", "-i", "--name", "m1", "--", "sh", "-c", "cat; echo done >&2; exit 3")
	c.Stdin = bytes.NewReader(content)
	got := runCommand(t, c)
	if got.code != 3 || got.errors != "done\n" || sha256.Sum256([]byte(got.out)) != sha256.Sum256(content) {
		t.Errorf("-i: got rc %d, %d bytes, %q, want 3, %d bytes unchanged, done", got.code, len(got.out), got.errors, len(content))
	}
}

func TestExecOutputLimit(t *testing.T) {
	const limit = 11_534_336
	bare := worldWithRunningMachine(t, "1.32.2")
	boxed := newWorld(t, "1.32.2")
	boxed.ok("machine", "create", "--name", "m1", "--image", boxed.image(`{"config":{}}`))
	boxed.ok("machine", "start", "--name", "m1")
	flood := []string{"--name", "m1", "--", "head", "-c", "12000000", "/dev/zero"}
	if r := boxed.run(append([]string{"machine", "exec"}, flood...)...); r.code != 0 || len(r.out) != limit || r.errors != "" {
		t.Errorf("image: got rc %d, %d bytes, %q, want 0, %d, no error", r.code, len(r.out), r.errors, limit)
	}
	if r := bare.run(append([]string{"machine", "exec"}, flood...)...); r.code != 1 || r.out != "" || !strings.HasPrefix(r.errors, "Error: ") {
		t.Errorf("bare: got rc %d, %d bytes, %q, want an error and nothing printed", r.code, len(r.out), r.errors)
	}
	if r := bare.run(append([]string{"machine", "exec", "--stream"}, flood...)...); r.code != 1 || len(r.out) != limit || !strings.HasPrefix(r.errors, "Error: ") {
		t.Errorf("stream: got rc %d, %d bytes, %q, want an error after %d", r.code, len(r.out), r.errors, limit)
	}
}

func TestExecWithATerminal(t *testing.T) {
	w := worldWithRunningMachine(t, "1.32.2")
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	defer master.Close()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 41, Col: 103}); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	c := w.command("machine", "exec", "-it", "--name", "m1", "--", "sh", "-c", "stty size; test -t 0 && test -t 1 && echo terminal; exit 5")
	c.Stdin = tty
	r := runCommand(t, c)
	if r.code != 5 || r.out != "41 103\r\nterminal\r\n" {
		t.Errorf("got %+v, want 41 103, a terminal, and rc 5", r)
	}
}

func TestKilledClientLeavesNothingRunning(t *testing.T) {
	w := worldWithRunningMachine(t, "1.32.2")
	c := w.command("machine", "exec", "--name", "m1", "--", "sleep", "987")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	g := gomega.NewWithT(t)
	processes := func() string { return w.ok("machine", "exec", "--name", "m1", "--", "ps") }
	g.Eventually(processes).WithTimeout(patience).Should(gomega.ContainSubstring("sleep 987"))
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	g.Eventually(processes).WithTimeout(patience).ShouldNot(gomega.ContainSubstring("sleep 987"))
}

// TestEightConcurrentExecs checks that old releases serve only eight requests
// at a time: during eight long execs the machine appears unreachable.
func TestEightConcurrentExecs(t *testing.T) {
	for version, want := range map[string]string{"1.9.1": "unreachable", "1.32.2": "running"} {
		t.Run(version, func(t *testing.T) {
			w := worldWithRunningMachine(t, version)
			for range 8 {
				startLongExec(t, w)
			}
			g := gomega.NewWithT(t)
			g.Eventually(func() any { return w.status("m1")["state"] }).WithTimeout(patience).Should(gomega.Equal(want))
			if want == "running" {
				g.Consistently(func() any { return w.status("m1")["state"] }).Should(gomega.Equal(want))
			}
		})
	}
}

// startLongExec starts an exec that runs until the test ends.
func startLongExec(t *testing.T, w *world) {
	t.Helper()
	c := w.command("machine", "exec", "-i", "--name", "m1", "--", "cat")
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = c.Wait()
	})
}

func TestCopy(t *testing.T) {
	w := worldWithRunningMachine(t, "1.32.2")
	content := strings.Repeat("\x00line\xff\n", 300_000)
	src, back := w.write("src", content), w.home+"/back"
	w.ok("machine", "cp", src, "m1:/tmp/x", "--mode", "750", "--uid", "1000")
	if got := w.ok("machine", "exec", "--name", "m1", "--", "stat", "-c", "%a %u %g %s", "/tmp/x"); got != "750 1000 0 2100000\n" {
		t.Errorf("got %s, want the requested mode and owner, and the file's size", got)
	}
	w.ok("machine", "cp", "m1:/tmp/x", back)
	if b, err := os.ReadFile(back); err != nil || string(b) != content {
		t.Errorf("got %d bytes back, %v, want %d unchanged", len(b), err, len(content))
	}
	w.fails(1, "not a regular file", "machine", "cp", w.home, "m1:/tmp/y")
	w.fails(1, "file not found", "machine", "cp", "m1:/none", back)
	w.fails(1, "vm not found: m2", "machine", "cp", src, "m2:/x")
}
