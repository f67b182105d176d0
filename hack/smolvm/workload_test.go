// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/onsi/gomega"

	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/test/require"
)

const patience = 30 * time.Second

// TestWorkloadLogIsRotated: ten MiB in each file and three old files, as measured with
// the real smolvm.
func TestWorkloadLogIsRotated(t *testing.T) {
	require.Root(t)
	w := newWorld(t, "1.32.2")
	w.ok("machine", "create", "--name", "m1", "--", "sh", "-c", "echo first; head -c 60000000 /dev/zero | tr '\\0' x; echo; echo last; exec sleep 1000")
	w.ok("machine", "start", "--name", "m1")
	log := filepath.Join(strings.TrimSpace(w.ok("machine", "data-dir", "--name", "m1")), "workload.log")
	gomega.NewWithT(t).Eventually(func() string {
		b, _ := os.ReadFile(log)
		return string(b)
	}).WithTimeout(patience).Should(gomega.HaveSuffix("\nlast\n"))
	for i, name := range []string{log, log + ".1", log + ".2", log + ".3"} {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if over := st.Size() - 10<<20; over > 1<<20 || i > 0 && over < 0 {
			t.Errorf("%s has %d bytes, want about 10 MiB", filepath.Base(name), st.Size())
		}
	}
	if _, err := os.Stat(log + ".4"); err == nil {
		t.Error("got a fourth old file, want three")
	}
	// The agent may cut the log off.
	if err := os.Truncate(log, 0); err != nil {
		t.Fatal(err)
	}
	w.ok("machine", "stop", "--name", "m1")
	w.ok("machine", "start", "--name", "m1")
	gomega.NewWithT(t).Eventually(func() string {
		b, _ := os.ReadFile(log)
		return string(b)
	}).WithTimeout(patience).Should(gomega.HaveSuffix("\nlast\n"))
}

// shared makes the two folders of a supervised machine.
func shared(t *testing.T, w *world, orders string) (in, out string) {
	t.Helper()
	in, out = filepath.Join(w.home, "in"), filepath.Join(w.home, "out")
	for _, dir := range []string{in, out} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(in, supervise.Program), "../../cmd/bottle-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	w.write("in/"+supervise.OrdersFile, orders)
	report := w.write("out/"+supervise.ReportFile, "")
	if err := os.Chmod(report, 0o666); err != nil {
		t.Fatal(err)
	}
	return in, out
}

// supervised returns a world whose machine m1 runs a workload under the supervisor.
func supervised(t *testing.T, user, orders, script string) (w *world, out string) {
	t.Helper()
	require.Root(t)
	w = newWorld(t, "1.32.2")
	in, out := shared(t, w, orders)
	w.ok("machine", "create", "--name", "m1", "--image", w.image(`{"config":{"User":"`+user+`"}}`), "-v", in+":"+supervise.In+":ro", "-v", out+":"+supervise.Out,
		"--", supervise.In+"/"+supervise.Program, "supervise", "--", "/bin/sh", "-c", script)
	w.ok("machine", "start", "--name", "m1")
	return w, out
}

func awaitReport(t *testing.T, out string, wanted func(supervise.Report) bool) supervise.Report {
	t.Helper()
	var r supervise.Report
	gomega.NewWithT(t).Eventually(func() bool {
		text, err := os.ReadFile(filepath.Join(out, supervise.ReportFile))
		if err != nil {
			return false
		}
		r, err = supervise.Parse(text)
		return err == nil && wanted(r)
	}).WithTimeout(patience).Should(gomega.BeTrue())
	return r
}

// orders returns orders to run the workload. Machines of these tests share a network
// namespace, so each has a start of its own.
func orders(policy, stdin string) string {
	return fmt.Sprintf(`{"start":"%d","workload":"Run","restartPolicy":%q,"stdin":%q}`, time.Now().UnixNano(), policy, stdin)
}

const guestProgram = supervise.In + "/" + supervise.Program

func TestSupervisedWorkload(t *testing.T) {
	for _, user := range []string{"", "worker"} {
		w, out := supervised(t, user, orders("Never", ""), "echo out; echo err >&2; exit 42")
		r := awaitReport(t, out, func(r supervise.Report) bool { return r.Final })
		if r.Start == "" || r.ExitCode == nil || *r.ExitCode != 42 {
			t.Errorf("user %q: got %+v, want exit code 42", user, r)
		}
		log := func() string { return w.ok("machine", "logs", "--name", "m1") }
		for _, line := range []string{" system F run 1\n", " stdout F out\n", " stderr F err\n", " system F exit 42\n"} {
			gomega.NewWithT(t).Eventually(log).WithTimeout(patience).Should(gomega.ContainSubstring(line))
		}
		if got := w.run("machine", "exec", "-i", "--name", "m1", "--", guestProgram, "attach"); got != (result{42, "out\n", "err\n"}) {
			t.Errorf("user %q: attach: got %+v, want the output and 42", user, got)
		}
		w.fails(1, "", "machine", "exec", "--name", "m1", "--", "sh", "-c", "echo x > "+supervise.In+"/x")
	}
}

// TestStopReachesTheWorkload: the supervisor passes smolvm's signal on.
func TestStopReachesTheWorkload(t *testing.T) {
	w, out := supervised(t, "worker", orders("Always", ""), `trap "echo bye; exit 7" TERM; echo ready; while :; do sleep 0.05; done`)
	log := func() string { return w.ok("machine", "logs", "--name", "m1") }
	gomega.NewWithT(t).Eventually(log).WithTimeout(patience).Should(gomega.ContainSubstring("ready"))
	w.ok("machine", "stop", "--name", "m1")
	if got := log(); !strings.Contains(got, "stdout F bye\n") || !strings.Contains(got, "system F exit 7\n") {
		t.Errorf("got log %s, want the workload to end by itself", got)
	}
	if r := awaitReport(t, out, func(r supervise.Report) bool { return !r.FinishTime.IsZero() }); r.Final {
		t.Errorf("got %+v, want a report that is not final", r)
	}
}

// terminal runs a command under a terminal of this size.
type terminal struct {
	*exec.Cmd
	master *os.File
	mu     sync.Mutex
	text   bytes.Buffer
}

func newTerminal(t *testing.T, c *exec.Cmd, rows, cols uint16) *terminal {
	t.Helper()
	x := &terminal{Cmd: c}
	var err error
	if x.master, err = pty.StartWithSize(c, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		x.master.Close()
	})
	go func() { _, _ = io.Copy(x, x.master) }()
	return x
}

func (x *terminal) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.text.Write(p)
}

func (x *terminal) output() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.text.String()
}

func (x *terminal) await(t *testing.T, text string) {
	t.Helper()
	gomega.NewWithT(t).Eventually(x.output).WithTimeout(patience).Should(gomega.ContainSubstring(text))
}

func (x *terminal) resize(t *testing.T, rows, cols uint16) {
	t.Helper()
	if err := pty.Setsize(x.master, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		t.Fatal(err)
	}
}

// sizes prints the size of its terminal, and again whenever that changes.
const sizes = `trap "stty size" WINCH; stty size; while :; do sleep 0.05; done`

func TestExecFollowsTheTerminal(t *testing.T) {
	w := worldWithRunningMachine(t, "1.32.2")
	x := newTerminal(t, w.command("machine", "exec", "-it", "--name", "m1", "--", "sh", "-c", sizes), 41, 103)
	x.await(t, "41 103\r\n")
	x.resize(t, 30, 90)
	x.await(t, "30 90\r\n")
	// A client that is killed leaves nothing running in the guest.
	if err := x.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	processes := func() string { return w.ok("machine", "exec", "--name", "m1", "--", "ps") }
	gomega.NewWithT(t).Eventually(processes).WithTimeout(patience).ShouldNot(gomega.ContainSubstring("WINCH"))
}

func TestAttachFollowsTheTerminal(t *testing.T) {
	w, _ := supervised(t, "worker", orders("Never", "Terminal"),
		`trap "stty size" WINCH; stty -echo; echo ready; while :; do read x; test "$x" = q && exit 6; done`)
	// A size that changes earlier is not printed.
	gomega.NewWithT(t).Eventually(func() string { return w.ok("machine", "logs", "--name", "m1") }).WithTimeout(patience).Should(gomega.ContainSubstring("ready"))
	attach := func() *terminal {
		return newTerminal(t, w.command("machine", "exec", "-it", "--name", "m1", "--", guestProgram, "attach", "--stdin", "--tty"), 41, 103)
	}
	x := attach()
	x.await(t, "41 103\r\n")
	if err := x.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	processes := func() string { return w.ok("machine", "exec", "--name", "m1", "-u", "0", "--", "busybox", "ps") }
	gomega.NewWithT(t).Eventually(processes).WithTimeout(patience).ShouldNot(gomega.ContainSubstring("attach --stdin"))
	y := attach()
	y.await(t, "ready")
	y.resize(t, 30, 90)
	y.await(t, "30 90\r\n")
	if _, err := y.master.WriteString("q\r"); err != nil {
		t.Fatal(err)
	}
	_ = y.Wait()
	if code := y.ProcessState.ExitCode(); code != 6 {
		t.Errorf("got %d, want the workload's exit code: %q", code, y.output())
	}
}
