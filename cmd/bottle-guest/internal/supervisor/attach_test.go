// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/onsi/gomega"

	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/test/require"
)

// attached is a client that runs.
type attached struct {
	*exec.Cmd
	stdin     io.WriteCloser
	out, errs *buffer
}

func (g *guest) attach(args ...string) *attached {
	g.Helper()
	a := &attached{Cmd: g.role("attach", args...), out: &buffer{}, errs: &buffer{}}
	a.Stdout, a.Stderr = a.out, a.errs
	var err error
	if a.stdin, err = a.StdinPipe(); err != nil {
		g.Fatal(err)
	}
	if err := a.Start(); err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() {
		if a.ProcessState == nil {
			_ = a.Process.Kill()
			_ = a.Wait()
		}
	})
	return a
}

// code waits for the end and returns the exit code.
func (a *attached) code(t *testing.T) int {
	t.Helper()
	done := make(chan struct{})
	go func() {
		_ = a.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		_ = a.Process.Kill()
		t.Fatalf("attach does not end; it printed %q and %q", a.out, a.errs)
	}
	return a.ProcessState.ExitCode()
}

func (a *attached) awaitOutput(t *testing.T, text string) {
	t.Helper()
	gomega.NewWithT(t).Eventually(a.out.String).WithTimeout(patience).Should(gomega.ContainSubstring(text))
}

// TestAttachAfterwards: who comes late gets the output and the exit code too.
func TestAttachAfterwards(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]int{"echo out; echo err >&2; exit 42": 42, "echo out; echo err >&2; kill -9 $$": 137} {
		g := shell(t, never, script).run()
		g.await("final", final)
		a := g.attach()
		if got := a.code(t); got != want || a.out.String() != "out\n" || a.errs.String() != "err\n" {
			t.Errorf("got %d, %q, %q, want %d and the output", got, a.out, a.errs, want)
		}
	}
}

// TestReplayIsBounded: a new client gets at most the last 64 KiB.
func TestReplayIsBounded(t *testing.T) {
	t.Parallel()
	g := shell(t, never, "seq 1 100000; echo last >&2").run()
	g.await("final", final)
	a := g.attach()
	a.code(t)
	got := len(a.out.String()) + len(a.errs.String())
	if got > maxReplay || got < maxReplay/2 || !strings.HasSuffix(a.out.String(), "\n99999\n100000\n") {
		t.Errorf("got %d bytes that end with %q, want the end of the output in %d", got, a.out.String()[max(0, got-50):], maxReplay)
	}
}

func TestReplayOfTinyPieces(t *testing.T) {
	t.Parallel()
	h := &hub{}
	for i := range 100_000 {
		h.write(stream(i%2), []byte{byte(i)})
	}
	size := 0
	for _, p := range h.replay {
		size += len(p.data)
	}
	if len(h.replay) > 4096 || size != h.size || size == 0 {
		t.Errorf("got %d pieces of %d bytes, counted as %d, want at most 4096", len(h.replay), size, h.size)
	}
}

func TestStdin(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		stdin, args string
		script      string
		want        string
	}{
		"closed":           {supervise.StdinClosed, "", "cat; echo end", "end\n"},
		"closed, sent":     {supervise.StdinClosed, "--stdin", "cat; echo end", "end\n"},
		"open":             {supervise.StdinOpen, "--stdin", "cat; echo end", "input\nend\n"},
		"open, not asked":  {supervise.StdinOpen, "", "read x; echo $x", ""},
		"terminal":         {supervise.StdinTerminal, "--stdin", "stty -echo; echo ready; read x; echo got $x; test -t 0 && test -t 1 && test -t 2 && echo tty $TERM", "ready\r\ngot input\r\ntty xterm\r\n"},
		"an unknown value": {"Later", "--stdin", "cat; echo end", "end\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			orders := never
			orders.Stdin = test.stdin
			g := shell(t, orders, test.script)
			g.cmd.Env = append(g.cmd.Env, "TERM=")
			for i, entry := range g.cmd.Env {
				if strings.HasPrefix(entry, "TERM=") {
					g.cmd.Env[i] = "OTHER="
				}
			}
			g.run()
			a := g.attach(strings.Fields(test.args)...)
			if test.stdin == supervise.StdinTerminal {
				a.awaitOutput(t, "ready")
			}
			if _, err := io.WriteString(a.stdin, "input\n"); err != nil {
				t.Fatal(err)
			}
			a.stdin.Close()
			if test.want == "" {
				time.Sleep(2 * goneDelay)
				if r := g.await("a report", func(supervise.Report) bool { return true }); r.Final {
					t.Errorf("got %+v, want a workload that still waits for input", r)
				}
				return
			}
			if got := a.code(t); got != 0 || a.out.String() != test.want {
				t.Errorf("got %d, %q, %q, want 0, %q", got, a.out, a.errs, test.want)
			}
		})
	}
}

// TestInputIsIntact sends more than all buffers hold, to a workload that reads slowly.
func TestInputIsIntact(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartNever, Stdin: supervise.StdinOpen}, "sleep 0.5; cksum").run()
	a := g.attach("--stdin")
	content := bytes.Repeat([]byte("0123456789abcdef\x00\xff\r\n"), 200_000)
	if _, err := a.stdin.Write(content); err != nil {
		t.Fatal(err)
	}
	a.stdin.Close()
	sum := exec.Command("cksum")
	sum.Stdin = bytes.NewReader(content)
	want, err := sum.Output()
	if err != nil {
		t.Fatal(err)
	}
	if code := a.code(t); code != 0 || a.out.String() != string(want) {
		t.Errorf("got %d, %q, want %q", code, a.out, want)
	}
}

// TestInputOutlivesItsClient: a client that is killed does not end the workload's
// input, and the next client continues.
func TestInputOutlivesItsClient(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartNever, Stdin: supervise.StdinOpen}, "cat").run()
	first := g.attach("--stdin")
	if _, err := io.WriteString(first.stdin, "one\n"); err != nil {
		t.Fatal(err)
	}
	first.awaitOutput(t, "one\n")
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	second := g.attach("--stdin")
	if _, err := io.WriteString(second.stdin, "two\n"); err != nil {
		t.Fatal(err)
	}
	second.awaitOutput(t, "one\ntwo\n")
	second.stdin.Close()
	if code := second.code(t); code != 0 {
		t.Errorf("got %d, %s, want 0", code, second.errs)
	}
}

// TestAttachSurvivesRestarts: one client sees all runs, and input sent during a pause
// reaches the next one.
func TestAttachSurvivesRestarts(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartOnFailure, Stdin: supervise.StdinOpen}, `echo ready; read x; echo got $x; test $x = good`).fast().run()
	a := g.attach("--stdin")
	a.awaitOutput(t, "ready")
	if _, err := io.WriteString(a.stdin, "bad\n"); err != nil {
		t.Fatal(err)
	}
	a.awaitOutput(t, "got bad\n")
	// What is sent to a run that has ended, but is not known to have ended, is lost.
	g.await("after the first run", func(r supervise.Report) bool { return !r.FinishTime.IsZero() || r.Restarts > 0 })
	if _, err := io.WriteString(a.stdin, "good\n"); err != nil {
		t.Fatal(err)
	}
	if code := a.code(t); code != 0 || a.out.String() != "ready\ngot bad\nready\ngot good\n" {
		t.Errorf("got %d, %q, want both runs", code, a.out)
	}
}

func TestTooManyClients(t *testing.T) {
	t.Parallel()
	g := shell(t, never, "echo ready; exec sleep 1000").run()
	g.awaitLog("ready")
	var all []*attached
	for range maxClients {
		a := g.attach()
		a.awaitOutput(t, "ready")
		all = append(all, a)
	}
	late := g.attach()
	if code := late.code(t); code != 125 || !strings.Contains(late.errs.String(), "too many") {
		t.Errorf("got %d, %q, want a refusal", code, late.errs)
	}
	// A client that was killed makes room, although it has said nothing.
	if err := all[0].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		a := g.attach()
		gomega.NewWithT(t).Eventually(func() string { return a.out.String() + a.errs.String() }).WithTimeout(patience).ShouldNot(gomega.BeEmpty())
		if strings.Contains(a.out.String(), "ready") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want room for a new client", a.errs)
		}
	}
}

// TestSlowClientIsDropped: a client that does not read holds up neither the workload
// nor other clients.
func TestSlowClientIsDropped(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartNever, Stdin: supervise.StdinOpen}, `echo ready; read x; head -c 4000000 /dev/zero | tr '\0' x; exit 5`).run()
	g.awaitLog("ready")
	slow := g.role("attach")
	unread, err := slow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs := &buffer{}
	slow.Stderr = errs
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(unread, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	fast := g.attach("--stdin")
	fast.awaitOutput(t, "ready")
	if _, err := io.WriteString(fast.stdin, "go\n"); err != nil {
		t.Fatal(err)
	}
	if code := fast.code(t); code != 5 || len(fast.out.String()) != 6+4000000 {
		t.Errorf("got %d, %d bytes, %q, want 5 and all output", code, len(fast.out.String()), fast.errs)
	}
	_, _ = io.Copy(io.Discard, unread)
	_ = slow.Wait()
	if code := slow.ProcessState.ExitCode(); code != 125 || !strings.Contains(errs.String(), "not read fast enough") {
		t.Errorf("slow client: got %d, %q, want to be dropped", code, errs)
	}
}

// TestStuckInput: clients that send input which nobody reads hold up nothing, and make
// room when they are killed.
func TestStuckInput(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartNever, Stdin: supervise.StdinOpen}, "echo ready; sleep 1000").run()
	g.awaitLog("ready")
	for range maxClients + 2 {
		a := g.attach("--stdin")
		gomega.NewWithT(t).Eventually(func() string { return a.out.String() + a.errs.String() }).WithTimeout(patience).ShouldNot(gomega.BeEmpty())
		go func() { _, _ = a.stdin.Write(make([]byte, 1<<20)) }()
		time.Sleep(20 * time.Millisecond)
		_ = a.Process.Kill()
	}
	stop := g.role("stop", "10s")
	if out, err := stop.CombinedOutput(); err != nil {
		t.Fatalf("stop: %v, %s", err, out)
	}
	g.await("final", final)
}

func TestTerminalSize(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartNever, Stdin: supervise.StdinTerminal}, `trap 'stty size' WINCH; stty -echo; stty size; echo ready; while :; do read x; case $x in q) exit 6;; esac; done`).run()
	g.awaitLog("stdout F ready")
	if got := g.content("stdout"); !strings.HasPrefix(got, "24 80\r\n") {
		t.Errorf("got %q, want 24 by 80 without a client", got)
	}
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 41, Cols: 103}); err != nil {
		t.Fatal(err)
	}
	out := &buffer{}
	go func() { _, _ = io.Copy(out, master) }()
	cmd := g.role("attach", "--stdin", "--tty")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually := func(text string) {
		t.Helper()
		gomega.NewWithT(t).Eventually(out.String).WithTimeout(patience).Should(gomega.ContainSubstring(text))
	}
	eventually("41 103\r\n")
	if err := pty.Setsize(master, &pty.Winsize{Rows: 30, Cols: 90}); err != nil {
		t.Fatal(err)
	}
	eventually("30 90\r\n")
	// In raw mode, the interrupt is a byte for the workload's terminal, which echoes
	// nothing and sends the signal there.
	if _, err := io.WriteString(master, "q\r"); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 6 {
		t.Errorf("got %d, want 6: %q", code, out)
	}
	slave.Close()
}

// TestInterruptByTerminal: Ctrl-C in a client reaches the workload.
func TestInterruptByTerminal(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartNever, Stdin: supervise.StdinTerminal}, `echo ready; exec sleep 1000`).run()
	a := g.attach("--stdin")
	a.awaitOutput(t, "ready")
	if _, err := a.stdin.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if code := a.code(t); code != 130 {
		t.Errorf("got %d, want 130", code)
	}
}

// TestStrangersAreRefused: other users of the guest control nothing.
func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	require.Root(t)
	g := shell(t, never, "echo ready; exec sleep 1000").run()
	g.awaitLog("ready")
	for role, arg := range map[string]string{"attach": "--stdin", "stop": "0s"} {
		cmd := g.role(role, arg)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		copyForStranger(t, cmd, g)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "another user") {
			t.Errorf("%s: got %q, %v, want a refusal", role, out, err)
		}
	}
	if r := g.await("a report", running); r.Final {
		t.Errorf("got %+v, want the workload to run", r)
	}
}

// copyForStranger puts the program and the orders where any user can read them.
func copyForStranger(t *testing.T, cmd *exec.Cmd, g *guest) {
	t.Helper()
	dir, err := os.MkdirTemp("", "stranger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{os.Args[0]: "/program", g.in + "/" + supervise.OrdersFile: "/" + supervise.OrdersFile} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+to, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Path, cmd.Args[1] = dir+"/program", dir
}

func TestStop(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		script, grace string
		want          string
	}{
		"ends by itself": {`trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done`, "1h", "exit 3"},
		"by the signal":  {"echo ready; exec sleep 1000", "1h", "signal 15"},
		"is killed":      {`trap "" TERM; echo ready; while :; do sleep 0.05; done`, "300ms", "signal 9"},
		"without grace":  {`trap "" TERM; echo ready; while :; do sleep 0.05; done`, "0s", "signal 9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartAlways}, test.script).run()
			g.awaitLog("ready")
			if out, err := g.role("stop", test.grace).CombinedOutput(); err != nil {
				t.Fatalf("got %v, %s", err, out)
			}
			// The report is complete when stop returns.
			text, err := os.ReadFile(g.out + "/" + supervise.ReportFile)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := supervise.Parse(text); err != nil || !r.Final || !r.NextStartTime.IsZero() {
				t.Errorf("got %+v, %v, want a final report", r, err)
			}
			g.awaitLog("system F " + test.want + "\n")
			if out, err := g.role("stop", "1s").CombinedOutput(); err != nil {
				t.Errorf("stop again: got %v, %s", err, out)
			}
		})
	}
}

// TestStopIsUrgent: of several requests, the one with the least grace counts.
func TestStopIsUrgent(t *testing.T) {
	t.Parallel()
	g := shell(t, never, `trap "echo asked" TERM; echo ready; while :; do sleep 0.05; done`).run()
	g.awaitLog("ready")
	patient := g.role("stop", "1h")
	if err := patient.Start(); err != nil {
		t.Fatal(err)
	}
	g.awaitLog("asked")
	if out, err := g.role("stop", "100ms").CombinedOutput(); err != nil {
		t.Errorf("got %v, %s", err, out)
	}
	if err := patient.Wait(); err != nil {
		t.Errorf("the first request: got %v", err)
	}
}

// TestStopWithoutARun: during a pause, and before the first run.
func TestStopWithoutARun(t *testing.T) {
	t.Parallel()
	paused := shell(t, supervise.Orders{RestartPolicy: supervise.RestartAlways}, "exit 9").run()
	paused.await("paused", func(r supervise.Report) bool { return !r.NextStartTime.IsZero() })
	idle := shell(t, supervise.Orders{Workload: supervise.Idle}, "exit 9").run()
	for name, g := range map[string]*guest{"paused": paused, "idle": idle} {
		if out, err := g.role("stop", "1s").CombinedOutput(); err != nil {
			t.Errorf("%s: got %v, %s", name, err, out)
		}
		r := g.await("final", final)
		if r.Restarts != 0 || !r.NextStartTime.IsZero() || (name == "idle") != r.StartTime.IsZero() {
			t.Errorf("%s: got %+v, want no other run", name, r)
		}
		g.order(never)
		if name == "idle" {
			time.Sleep(3 * ordersEvery)
			if got := g.log.String(); got != "" {
				t.Errorf("got log %s, want no run", got)
			}
		}
	}
}

// TestStopEndsWithoutItsClient: the workload is stopped although the client is gone.
func TestStopEndsWithoutItsClient(t *testing.T) {
	t.Parallel()
	g := shell(t, never, `trap "echo asked" TERM; echo ready; while :; do sleep 0.05; done`).run()
	g.awaitLog("ready")
	stop := g.role("stop", "1s")
	if err := stop.Start(); err != nil {
		t.Fatal(err)
	}
	g.awaitLog("asked")
	_ = stop.Process.Kill()
	_ = stop.Wait()
	if r := g.await("final", final); r.Signal != 9 {
		t.Errorf("got %+v, want signal 9", r)
	}
}

// TestNoSupervisor: clients of a guest without a supervisor say so.
func TestNoSupervisor(t *testing.T) {
	t.Parallel()
	g := shell(t, never, "true")
	a := g.attach()
	if code := a.code(t); code != 125 || !strings.Contains(a.errs.String(), "no supervisor") {
		t.Errorf("got %d, %q, want that no supervisor runs", code, a.errs)
	}
}

// TestHostileClients: what no client of ours sends.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	g := shell(t, supervise.Orders{RestartPolicy: supervise.RestartNever, Stdin: supervise.StdinOpen}, "echo ready; cat").run()
	g.awaitLog("ready")
	for name, text := range map[string]string{
		"nothing":         "",
		"half a frame":    "\x00\x00",
		"a huge frame":    "\x00\xff\xff\xff\xff",
		"no JSON":         "\x00\x00\x00\x00\x01x",
		"another kind":    "\x05\x00\x00\x00\x00",
		"an unknown op":   "\x00\x00\x00\x00\x0a" + `{"op":"x"}`,
		"a bad grace":     "\x00\x00\x00\x00\x2c" + `{"op":"attach","graceMillis":-1,"stdin":true}`[:44],
		"a short size":    string(frameBytes(t, jsonFrame(kindRequest, request{Op: opAttach}), frame{kindResize, []byte{1}})),
		"output":          string(frameBytes(t, jsonFrame(kindRequest, request{Op: opAttach}), frame{kindStdout, []byte("fake")})),
		"input, unasked":  string(frameBytes(t, jsonFrame(kindRequest, request{Op: opAttach}), frame{kindStdin, []byte("fake")}, frame{kind: kindStdinEnd})),
		"an unknown kind": string(frameBytes(t, jsonFrame(kindRequest, request{Op: opAttach}), frame{99, []byte("fake")})),
	} {
		conn, err := net.DialUnix("unix", nil, address(g.start))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	a := g.attach("--stdin")
	a.stdin.Close()
	if code := a.code(t); code != 0 || a.out.String() != "ready\n" {
		t.Errorf("got %d, %q, %q, want an undisturbed workload", code, a.out, a.errs)
	}
}

func frameBytes(t *testing.T, frames ...frame) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, f := range frames {
		if err := writeFrame(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		got, err := readFrame(r)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := writeFrame(&b, got); err != nil || !bytes.HasPrefix(data, b.Bytes()) {
			t.Errorf("got %v, %v, want the same bytes", b.Bytes(), err)
		}
	})
}
