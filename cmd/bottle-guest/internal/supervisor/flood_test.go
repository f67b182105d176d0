// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var lostLine = regexp.MustCompile(`(?m)system F dropped (\d+) bytes of output$`)

// lostInLog adds up what the log says was lost.
func (g *guest) lostInLog() (sum int64) {
	for _, m := range lostLine.FindAllStringSubmatch(g.log.String(), -1) {
		n, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			g.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestFlood: memory and the log stay bounded, and every byte is accounted for.
func TestFlood(t *testing.T) {
	t.Parallel()
	for script, n := range map[string]int{"head -c %d /dev/zero | tr '\\0' x": 20_000_000, "yes 0123456789012345678 | head -c %d": 1_000_000} {
		t.Run(script, func(t *testing.T) {
			g := shell(t, never, fmt.Sprintf(script, n)+"; exit 3").run()
			r := g.await("final", final)
			if r.ExitCode == nil || *r.ExitCode != 3 {
				t.Errorf("got %+v, want exit code 3", r)
			}
			g.awaitLog("system F exit 3\n")
			if log := float64(len(g.log.String())); log > logBurst+maxQueued+logRate*(1+r.FinishTime.Sub(r.StartTime).Seconds()) {
				t.Errorf("got a log of %v bytes", log)
			}
			kept := int64(len(g.content("stdout")))
			if kept+r.LostOutput != int64(n) {
				t.Errorf("got %d bytes in the log and %d lost, want %d together", kept, r.LostOutput, n)
			}
			if got := g.lostInLog(); got != r.LostOutput {
				t.Errorf("the log says that %d bytes were lost, the report %d", got, r.LostOutput)
			}
			if peak := peakMemory(t, g.cmd.Process.Pid); peak > 128<<20 {
				t.Errorf("the supervisor used %d bytes of memory, want a bounded number", peak)
			}
		})
	}
}

// handClock is a clock that a test advances.
type handClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *handClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *handClock) After(time.Duration) <-chan time.Time { return nil }

func (c *handClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// TestRate: output is let through up to the burst, then not at all until some time has
// passed, and what was lost is told.
func TestRate(t *testing.T) {
	t.Parallel()
	clock, w := &handClock{now: time.Unix(1e9, 0)}, &buffer{}
	l := newLogger(clock, w)
	lines := &lines{stream: stdout, log: l}
	chunk := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 300))
	feed := func(chunks int) (kept int) {
		t.Helper()
		before := strings.Count(w.String(), " stdout F ")
		for range chunks {
			lines.write(chunk)
		}
		l.flush(patience)
		return strings.Count(w.String(), " stdout F ") - before
	}
	perLine := 99 + lineOverhead
	if got, want := feed(500), logBurst/perLine; got != want {
		t.Errorf("got %d lines at once, want %d", got, want)
	}
	if got, want := l.lostBytes(), int64(100*(300*500-logBurst/perLine)); got != want {
		t.Errorf("got %d bytes lost, want %d", got, want)
	}
	clock.advance(100 * time.Millisecond)
	if got := feed(10); got != 0 {
		t.Errorf("got %d lines shortly after, want none", got)
	}
	clock.advance(time.Second)
	if got := feed(10); got != 3000 {
		t.Errorf("got %d lines a second later, want all", got)
	}
	lost := l.lostBytes()
	if got := lostLine.FindAllStringSubmatch(w.String(), -1); len(got) != 1 || got[0][1] != strconv.FormatInt(lost, 10) {
		t.Errorf("the log tells %q, want one line with %d", got, lost)
	}
}

// peakMemory returns the maximum memory of a process in bytes.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestUnreadLog: when nobody reads the supervisor's output, the workload runs to its
// end, is reported, and attach still works.
func TestUnreadLog(t *testing.T) {
	t.Parallel()
	g := shell(t, never, "head -c 6000000 /dev/zero | tr '\\0' x; echo; echo last; exit 3")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Stdout = writer
	g.run()
	writer.Close()
	r := g.await("final", final)
	if r.ExitCode == nil || *r.ExitCode != 3 || r.LostOutput < 2_000_000 {
		t.Errorf("got %+v, want exit code 3 and most output lost", r)
	}
	a := g.attach()
	if code := a.code(t); code != 3 || !strings.HasSuffix(a.out.String(), "\nlast\n") {
		t.Errorf("attach: got %d, %d bytes, want the end of the output", code, len(a.out.String()))
	}
	// Who reads the log in the end finds the outcome in it.
	go func() { _, _ = io.Copy(g.log, reader) }()
	g.awaitLog("system F exit 3\n")
	if g.lostInLog() == 0 {
		t.Error("the log says nothing about lost output")
	}
}

// TestClosedLog: the supervisor lives on when its output is closed.
func TestClosedLog(t *testing.T) {
	t.Parallel()
	g := shell(t, never, "echo a; sleep 0.2; echo b; exit 3")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	g.cmd.Stdout = writer
	g.run()
	writer.Close()
	if r := g.await("final", final); r.ExitCode == nil || *r.ExitCode != 3 || r.LostOutput == 0 {
		t.Errorf("got %+v, want exit code 3 and lost output", r)
	}
	if code := g.end(); code != 143 {
		t.Errorf("got %d, want it to live until it is ended", code)
	}
}

// gate is a writer that waits while it is closed.
type gate struct {
	mu sync.Mutex
	buffer
}

func (w *gate) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffer.Write(p)
}

// TestLoggerIsBounded: memory stays bounded while nothing is written, the wait is paid
// only once, and system lines are never lost.
func TestLoggerIsBounded(t *testing.T) {
	t.Parallel()
	w := &gate{}
	w.mu.Lock()
	l := newLogger(realClock{}, w)
	text := []byte(strings.Repeat("x", 1000))
	const count = 5000
	for range count {
		l.line(stdout, "F", text)
	}
	l.system("exit %d", 1)
	l.mu.Lock()
	queued, lost := len(l.queue), l.lost
	l.mu.Unlock()
	if queued > maxQueued+maxLine {
		t.Errorf("got %d bytes in the queue, want at most %d", queued, maxQueued)
	}
	w.mu.Unlock()
	l.flush(patience)
	got := w.String()
	if kept := strings.Count(got, " stdout F x"); int64(kept*1001)+lost != count*1001 {
		t.Errorf("got %d lines, %d bytes lost, want %d lines in all", kept, lost, count)
	}
	if !strings.HasSuffix(got, "system F exit 1\n") || !lostLine.MatchString(got) {
		t.Errorf("got a log that ends with %q, want what was lost and the outcome", got[max(0, len(got)-200):])
	}
}

// slowWriter takes a while for each piece.
type slowWriter struct{ buffer }

func (w *slowWriter) Write(b []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return w.buffer.Write(b)
}

// TestFlushOfASlowLog: what is written slowly is written to its end, however long that
// takes. A log that is not read at all delays nothing for long.
func TestFlushOfASlowLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{}
		l := newLogger(realClock{}, w)
		defer close(l.work)
		lines := &lines{stream: stdout, log: l}
		lines.write([]byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 6000))) // 30 pieces or so
		l.system("exit 0")
		l.flush(200 * time.Millisecond)
		if got := w.String(); !strings.HasSuffix(got, "system F exit 0\n") {
			t.Errorf("got %d bytes, without the last line", len(got))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		unread, pipe := io.Pipe()
		defer unread.Close()
		l := newLogger(realClock{}, pipe)
		defer close(l.work)
		l.system("exit 0")
		begin := time.Now()
		l.flush(50 * time.Millisecond)
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("flush took %v for a log that nobody reads", took)
		}
	})
}
