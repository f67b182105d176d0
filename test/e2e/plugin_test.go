// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

// TestPluginRuns runs commands to their end as a user does, in one line each.
func TestPluginRuns(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	got := c.Bottle(t, nil, "run", "job", "-n", ns, "--", "sh", "-c", "echo out; echo err >&2; exit 42")
	if got.Code != 42 || got.Stdout != "out\n" || !strings.Contains(got.Stderr, "\nerr\n") || !strings.Contains(got.Stderr, "Scheduled") {
		t.Errorf("got %+v, want exit code 42 and both streams apart", got)
	}
	b := &v1alpha1.Bottle{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "job"}, b); err != nil {
		t.Fatal(err)
	}
	waitFinished(t, c, b, v1alpha1.ReasonFailed)
	if story.EndOf(b) != "42" {
		t.Errorf("got the end %s, want 42", story.EndOf(b))
	}
	if got := c.Bottle(t, nil, "logs", "job", "-n", ns); got.Code != 0 || !strings.Contains(got.Stdout, "out\n") || !strings.Contains(got.Stdout, "err\n") {
		t.Errorf("logs of the finished Bottle: got %+v", got)
	}
	if got := c.Bottle(t, nil, "why", "job", "-n", ns); got.Code != 0 || !strings.Contains(got.Stdout, "exit code 42") {
		t.Errorf("why: got %+v", got)
	}
}

// TestPluginRunsAFlood runs a command that prints far more than the log keeps.
func TestPluginRunsAFlood(t *testing.T) {
	t.Parallel()
	c := connect(t)
	if lost := c.WantFloodBounded(t, c.Namespace(t), "flood", 64<<20); lost == 0 {
		t.Error("got all of the output, want most of it discarded and reported")
	}
}

// TestPluginRunOutlivesTheAgent runs alone, because it kills a node's agent.
func TestPluginRunOutlivesTheAgent(t *testing.T) {
	c := connect(t)
	c.WantRunOutlivesAgent(t, c.Namespace(t), "survivor")
}

// TestPluginRunsWithFiles copies a folder in before the command starts, and out after it
// has failed, and deletes the Bottle.
func TestPluginRunsWithFiles(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	local, back := t.TempDir(), filepath.Join(t.TempDir(), "back")
	if err := os.WriteFile(filepath.Join(local, "greeting"), []byte("hello"), 0o640); err != nil {
		t.Fatal(err)
	}
	got := c.Bottle(t, nil, "run", "job", "-n", ns, "--rm", "--copy-in", local+":/work", "--copy-out", "/work:"+back, "--", "sh", "-c", "cat /work/greeting; echo more >>/work/greeting; exit 3")
	if got.Code != 3 || got.Stdout != "hello" && got.Stdout != "hello\n" {
		t.Errorf("got %+v, want exit code 3 and the greeting", got)
	}
	if data, err := os.ReadFile(filepath.Join(back, "greeting")); string(data) != "hellomore\n" {
		t.Errorf("got %q, %v", data, err)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "job"}, &v1alpha1.Bottle{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("got %v, want that the Bottle is deleted", err)
	}
}

// TestPluginExecutes runs commands in a Bottle that stays.
func TestPluginExecutes(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "plugin-exec", "plugin-exec")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	in := func(args ...string) []string {
		return append([]string{args[0], b.Name, "-n", b.Namespace}, args[1:]...)
	}
	for _, code := range []int{0, 1, 42, 137} {
		if got := c.Bottle(t, nil, in("exec", "--", "sh", "-c", fmt.Sprintf("echo out; echo err >&2; exit %d", code))...); got.Code != code || got.Stdout != "out\n" || !strings.HasPrefix(got.Stderr, "err\n") {
			t.Errorf("got %+v, want exit code %d", got, code)
		}
	}
	data := make([]byte, 64<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	if got := c.Bottle(t, bytes.NewReader(data), in("exec", "-i", "--", "cat")...); got.Code != 0 || sha256.Sum256([]byte(got.Stdout)) != sha256.Sum256(data) {
		t.Errorf("got exit code %d and %d bytes, want %d unchanged\n%s", got.Code, len(got.Stdout), len(data), got.Stderr)
	}
	t.Run("a killed client leaves nothing", func(t *testing.T) {
		const command = "sleep 71717171"
		cmd := c.Plugin(t.Context(), t, in("exec", "--", "sh", "-c", "echo begun; exec "+command)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(c.Guest(t, b, "ps"), command); n == 0 {
			t.Fatal("the command does not run in the guest")
		}
		// kubectl replaces itself with the plugin, so that this is the plugin's process.
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		c.Eventually(t, "that the command is gone", func() (string, bool) {
			ps := c.Guest(t, b, "ps")
			return ps, !strings.Contains(ps, command)
		})
	})
	t.Run("a full-screen program", func(t *testing.T) { testFullScreen(t, c, b) })
}

// testFullScreen edits a file in tmux, at two sizes and after a resize: an editor shows its
// last line at the bottom of its terminal.
func testFullScreen(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) {
	tmux, err := exec.LookPath("tmux")
	if err != nil {
		require.Unmet(t, "needs tmux: apt-get install tmux")
	}
	socket := filepath.Join(t.TempDir(), "tmux")
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(tmux, append([]string{"-S", socket, "-f", "/dev/null"}, args...)...)
		cmd.Env = c.Plugin(t.Context(), t).Env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	t.Cleanup(func() { _ = exec.Command(tmux, "-S", socket, "kill-server").Run() })
	// bottom waits until the editor's last line is in this row, as wide as the terminal is.
	bottom := func(columns, rows int) {
		t.Helper()
		c.Eventually(t, fmt.Sprintf("that the editor fills %d columns and %d rows", columns, rows), func() (string, bool) {
			screen := run("capture-pane", "-p", "-t", "demo")
			lines := strings.Split(strings.TrimSuffix(screen, "\n"), "\n")
			return screen, len(lines) == rows && strings.Contains(lines[rows-1], "/tmp/page") && strings.TrimRight(lines[0], " ") == strings.Repeat("x", columns)
		})
	}
	c.Guest(t, b, "sh", "-c", `i=0; while [ $i -lt 300 ]; do printf x; i=$((i+1)); done >/tmp/page; i=0; while [ $i -lt 99 ]; do echo; i=$((i+1)); done >>/tmp/page`)
	kubectl := c.Plugin(t.Context(), t, "exec", b.Name, "-n", b.Namespace, "-it", "--", "vi", "/tmp/page")
	for _, size := range [][2]int{{80, 24}, {132, 40}} {
		run("new-session", "-d", "-s", "demo", "-x", strconv.Itoa(size[0]), "-y", strconv.Itoa(size[1]), strings.Join(kubectl.Args, " "))
		run("set-option", "-t", "demo", "status", "off")
		run("resize-window", "-t", "demo", "-x", strconv.Itoa(size[0]), "-y", strconv.Itoa(size[1]))
		bottom(size[0], size[1])
		run("resize-window", "-t", "demo", "-x", "100", "-y", "30")
		bottom(100, 30)
		run("send-keys", "-t", "demo", ":q!", "Enter")
		c.Eventually(t, "that the session ends with the editor", func() (string, bool) {
			err := exec.Command(tmux, "-S", socket, "has-session", "-t", "demo").Run()
			return fmt.Sprint(err), err != nil
		})
	}
}

// TestPluginExecutesOften runs many commands, one after the other and at a time.
func TestPluginExecutesOften(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "plugin-often", "plugin-often")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	before := len(strings.Split(c.Guest(t, b, "ps"), "\n"))
	one := func(in string) error {
		got := c.Bottle(t, strings.NewReader(in), "exec", b.Name, "-n", b.Namespace, "-i", "--", "cat")
		if got.Code != 0 || got.Stdout != in {
			return fmt.Errorf("got %+v, want %q", got, in)
		}
		return nil
	}
	for i := range 30 {
		if err := one(fmt.Sprint("one after the other ", i)); err != nil {
			t.Fatal(err)
		}
	}
	errs := make(chan error)
	for i := range 6 {
		go func() { errs <- one(strings.Repeat(fmt.Sprint("at a time ", i), 1000)) }()
	}
	for range 6 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	c.Eventually(t, "that no process is left in the guest", func() (string, bool) {
		ps := c.Guest(t, b, "ps")
		return ps, len(strings.Split(ps, "\n")) <= before
	})
}

// TestPluginCopies copies a tree in, lets the workload change it, and copies it out.
func TestPluginCopies(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := builders.MakeBottle("plugin-cp").Namespace(c.Namespace(t)).Slug("plugin-cp").Pin(node1).Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.CopyTree(t, b, story.TreeSize{Files: 500, Bytes: 20 << 20})
}
