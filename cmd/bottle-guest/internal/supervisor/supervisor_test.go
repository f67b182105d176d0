// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/gomega"

	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/test/require"
)

var never = supervise.Orders{RestartPolicy: supervise.RestartNever}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	for name, test := range map[string]struct {
		argv []string
		code int32
		sig  int
	}{
		"success":             {sh("exit 0"), 0, 0},
		"failure":             {sh("exit 42"), 42, 0},
		"the largest code":    {sh("exit 255"), 255, 0},
		"killed":              {sh("kill -9 $$"), 0, 9},
		"terminated":          {sh("kill -15 $$"), 0, 15},
		"aborted":             {sh("ulimit -c 0; kill -6 $$"), 0, 6},
		"no such command":     {[]string{"no-such-command"}, 127, 0},
		"no such path":        {[]string{"/none/such"}, 127, 0},
		"a file as a folder":  {[]string{write("file", "", 0o755) + "/x"}, 127, 0},
		"an empty name":       {[]string{""}, 127, 0},
		"not executable":      {[]string{write("data", "x", 0o644)}, 126, 0},
		"a folder":            {[]string{dir}, 126, 0},
		"no known format":     {[]string{write("text", "hello\n", 0o755)}, 126, 0},
		"no such interpreter": {[]string{write("script", "#!/none/such\n", 0o755)}, 127, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, never, test.argv...).run()
			r := g.await("final", final)
			got := fmt.Sprintf("code %v, signal %d", r.ExitCode, r.Signal)
			if r.ExitCode != nil {
				got = fmt.Sprintf("code %d, signal %d", *r.ExitCode, r.Signal)
			}
			want, line := fmt.Sprintf("code %d, signal %d", test.code, test.sig), fmt.Sprintf("system F exit %d\n", test.code)
			if test.sig != 0 {
				want, line = fmt.Sprintf("code <nil>, signal %d", test.sig), fmt.Sprintf("system F signal %d\n", test.sig)
			}
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if r.Start != g.start || r.StartTime.IsZero() || r.FinishTime.Before(r.StartTime) || r.Restarts != 0 {
				t.Errorf("got %+v, want the start and the times of one run", r)
			}
			g.awaitLog(line)
			if log := g.log.String(); !strings.Contains(log, "system F run 1\n") {
				t.Errorf("got log %s, want the beginning of the run", log)
			}
		})
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 40000)
	g := shell(t, never, `echo out; echo err >&2; echo; printf 'a\tb\r\n'; printf "`+long+`\n"; printf end`).run()
	g.await("final", final)
	g.awaitLog("system F exit 0\n")
	if got, want := g.content("stdout"), "out\n\na\tb\r\n"+long+"\nend"; got != want {
		t.Errorf("stdout: got %d bytes, want %d: %.100q", len(got), len(want), got)
	}
	if got := g.content("stderr"); got != "err\n" {
		t.Errorf("stderr: got %q, want err", got)
	}
	for line := range strings.Lines(g.log.String()) {
		if len(line) > maxLine+lineOverhead {
			t.Errorf("got a line of %d bytes, want at most %d of text", len(line), maxLine)
		}
	}
}

// TestIncompleteLine: a prompt has no end of line, and is in the log all the same.
func TestIncompleteLine(t *testing.T) {
	t.Parallel()
	g := shell(t, never, `printf 'password: '; sleep 1000`).run()
	g.awaitLog("stdout P password: \n")
}

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	script := func(g *guest) string { // fails twice, then succeeds
		return fmt.Sprintf(`echo x >>%s/runs; test $(wc -l <%s/runs) -ge 3`, g.in, g.in)
	}
	for policy, wantRuns := range map[string]int{supervise.RestartAlways: 5, supervise.RestartOnFailure: 3, supervise.RestartNever: 1, "unknown": 5} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			g := shell(t, supervise.Orders{RestartPolicy: policy, Restarts: 7}, "").fast()
			g.cmd.Args[len(g.cmd.Args)-1] = script(g)
			g.run()
			if wantRuns == 5 { // it would run for ever
				g.await("the fifth run", func(r supervise.Report) bool { return r.Restarts >= 11 })
				return
			}
			r := g.await("final", final)
			if r.Restarts != int32(7+wantRuns-1) {
				t.Errorf("got %d restarts, want %d", r.Restarts, 7+wantRuns-1)
			}
			if !r.NextStartTime.IsZero() {
				t.Errorf("got %s as the next start, want none", r.NextStartTime)
			}
		})
	}
}

func TestPauses(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartAlways}, "exit 1").fast().run()
	for n := int32(0); n < 4; n++ {
		r := g.await("in a pause", func(r supervise.Report) bool { return r.Restarts >= n && !r.NextStartTime.IsZero() })
		n = r.Restarts // a slow machine may miss some
		want := min(supervise.FirstPause<<n, supervise.MaxPause)
		if got := r.NextStartTime.Sub(r.FinishTime); got != want || r.Final || r.ExitCode == nil || *r.ExitCode != 1 {
			t.Errorf("pause %d: got %s in %+v, want %s", n+1, got, r, want)
		}
	}
}

func TestNextPause(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	pause := time.Duration(0)
	for _, ran := range []time.Duration{0, time.Second, 0, 0, 0, 0, 0, 9 * time.Minute, 10 * time.Minute, 0} {
		pause = nextPause(pause, ran)
		got = append(got, pause)
	}
	want := fmt.Sprint([]time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second,
		5 * time.Minute, 5 * time.Minute, 5 * time.Minute, 10 * time.Second, 20 * time.Second})
	if fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestPolicyIsLive changes the policy while the workload runs.
func TestPolicyIsLive(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartAlways}, "exec sleep 1000").run()
	g.await("running", running)
	g.order(never)
	kill(t, g, "sleep 1000")
	if r := g.await("final", final); r.Restarts != 0 {
		t.Errorf("got %+v, want no restart", r)
	}
}

// kill kills the process of the guest with this command line.
func kill(t *testing.T, g *guest, argv string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, pid := range descendants(t, g.cmd.Process.Pid) {
			if commandOf(pid) == argv {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}
	t.Fatalf("%q does not run", argv)
}

func commandOf(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}

// descendants returns all processes below a process, including zombies.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	var all []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range tasks {
		text, _ := os.ReadFile(path)
		for _, word := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, child), descendants(t, child)...)
		}
	}
	return all
}

func TestIdle(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{Workload: supervise.Idle, RestartPolicy: supervise.RestartNever}, "echo ran").run()
	attach := g.role("attach")
	if out, err := attach.CombinedOutput(); attach.ProcessState.ExitCode() != 125 || !strings.Contains(string(out), "without its workload") {
		t.Errorf("attach: got %q, %v, want a refusal", out, err)
	}
	if g.log.String() != "" {
		t.Errorf("got log %q, want none while idle", g.log.String())
	}
	g.order(never)
	g.await("final", final)
	g.awaitLog("stdout F ran\n")
}

// TestEnvOfTheOrders: it is added to the machine's variables, and overrides them.
func TestEnvOfTheOrders(t *testing.T) {
	t.Parallel()
	orders := never
	orders.Env = map[string]string{"HOME": "/ordered", "ONLY_ORDERED": "a=b c"}
	g := shell(t, orders, `echo "$HOME $ONLY_ORDERED $OF_THE_MACHINE"`)
	g.cmd.Env = append(g.cmd.Env, "HOME=/machine", "OF_THE_MACHINE=kept")
	g.run().await("final", final)
	g.awaitLog("system F exit 0\n")
	if got, want := g.content("stdout"), "/ordered a=b c kept\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOrdersComeLate: the supervisor waits for orders that it can read.
func TestOrdersComeLate(t *testing.T) {
	t.Parallel()
	g := shell(t, never, "exit 3")
	path := filepath.Join(g.in, supervise.OrdersFile)
	if err := os.WriteFile(path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.run()
	g.awaitLog("orders cannot be read")
	g.order(never)
	g.await("final", final)
}

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	g := shell(t, never, `for s in HUP INT QUIT USR1 USR2; do trap "echo got $s" $s; done; echo ready; while :; do sleep 0.05; done`).run()
	g.awaitLog("ready")
	for name, sig := range map[string]syscall.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2} {
		if err := g.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		g.awaitLog("stdout F got " + name + "\n")
	}
}

// TestTerminated: SIGTERM means that the machine is being stopped. That is no end for
// good.
func TestTerminated(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartAlways}, `trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done`).run()
	g.awaitLog("ready")
	if code := g.end(); code != 143 {
		t.Errorf("got exit code %d, want 143", code)
	}
	r := g.await("finished", func(r supervise.Report) bool { return !r.FinishTime.IsZero() })
	if r.ExitCode == nil || *r.ExitCode != 7 || r.Final || !r.NextStartTime.IsZero() {
		t.Errorf("got %+v, want exit code 7 and neither final nor a next start", r)
	}
	if got := g.content("stdout"); got != "ready\nbye\n" {
		t.Errorf("got output %q, want all of it", got)
	}
}

// TestTerminatedAtRest: the supervisor also ends during a pause, and after the end.
func TestTerminatedAtRest(t *testing.T) {
	t.Parallel()
	for policy, wanted := range map[string]func(supervise.Report) bool{
		supervise.RestartNever:  final,
		supervise.RestartAlways: func(r supervise.Report) bool { return !r.NextStartTime.IsZero() },
	} {
		g := shell(t, supervise.Orders{RestartPolicy: policy}, "exit 1").run()
		g.await("at rest", wanted)
		if code := g.end(); code != 143 {
			t.Errorf("%s: got exit code %d, want 143", policy, code)
		}
	}
}

// TestOrphansAreReaped: processes that lose their parent become the supervisor's, and
// no zombie is left.
func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	g := shell(t, never, `for i in 1 2 3 4 5; do sh -c 'sleep 0.1 & exec true'; done; echo ready; exec sleep 1000`).run()
	g.awaitLog("ready")
	only := func() []string {
		var all []string
		for _, pid := range descendants(t, g.cmd.Process.Pid) {
			all = append(all, commandOf(pid))
		}
		return all
	}
	gomega.NewWithT(t).Eventually(only).WithTimeout(patience).Should(gomega.Equal([]string{"sleep 1000"}))
}

// TestNothingOutlivesARun: what the workload left behind ends with it, also if it is
// in another process group or holds the output open.
func TestNothingOutlivesARun(t *testing.T) {
	t.Parallel()
	g := shell(t, never, `set -m; sleep 1001 & set +m; sleep 1002 & sh -c 'trap "" HUP TERM; sleep 1003' & sleep 0.2; exit 4`).run()
	if r := g.await("final", final); r.ExitCode == nil || *r.ExitCode != 4 {
		t.Errorf("got %+v, want exit code 4", r)
	}
	left := func() []int { return descendants(t, g.cmd.Process.Pid) }
	gomega.NewWithT(t).Eventually(left).WithTimeout(patience).Should(gomega.BeEmpty())
}

// TestDaemonHoldsTheOutput: a process with a session of its own outlives the run, but
// the run ends all the same.
func TestDaemonHoldsTheOutput(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("setsid"); err != nil {
		require.Unmet(t, "needs setsid: install Debian's util-linux")
	}
	g := shell(t, never, `setsid sleep 1004 & sleep 0.2; echo done`).run()
	g.await("final", final)
	g.awaitLog("system F exit 0\n")
	if got := g.content("stdout"); got != "done\n" {
		t.Errorf("got %q, want done", got)
	}
	kill(t, g, "sleep 1004")
}
