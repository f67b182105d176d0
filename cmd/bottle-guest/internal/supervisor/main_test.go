// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/gomega"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// The supervisor reaps every child of its process. So it runs in processes of its own:
// this test's program, with these values in the environment.
const (
	roleVariable = "SUPERVISOR_TEST_ROLE"
	fastVariable = "SUPERVISOR_TEST_FAST"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "supervise":
		o := Options{In: os.Args[1], Out: os.Args[2], Argv: os.Args[3:], Log: os.Stdout}
		if os.Getenv(fastVariable) != "" {
			o.Clock = fastClock{time.Now()}
		}
		for _, entry := range os.Environ() {
			if !strings.HasPrefix(entry, "SUPERVISOR_TEST_") {
				o.Env = append(o.Env, entry)
			}
		}
		os.Exit(Run(o))
	case "attach":
		code, err := Attach(AttachOptions{In: os.Args[1], Stdin: slices.Contains(os.Args, "--stdin"), TTY: slices.Contains(os.Args, "--tty")})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 125
		}
		os.Exit(code)
	case "stop":
		grace, err := time.ParseDuration(os.Args[2])
		if err == nil {
			err = Stop(os.Args[1], grace)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Nearly all of these tests wait for other processes, so many can run at a time. A flag
	// of the command line still wins.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// fastClock runs a hundred times as fast as the real one.
type fastClock struct{ start time.Time }

const fastFactor = 100

func (c fastClock) Now() time.Time { return c.start.Add(time.Since(c.start) * fastFactor) }

func (c fastClock) After(d time.Duration) <-chan time.Time {
	at := make(chan time.Time, 1)
	time.AfterFunc(d/fastFactor, func() { at <- c.Now() })
	return at
}

// patience is how long tests wait for what must happen. Nothing depends on its value.
const patience = 30 * time.Second

// guest is a supervisor with its folders.
type guest struct {
	*testing.T
	in, out string
	cmd     *exec.Cmd
	log     *buffer
	start   string
}

// buffer can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newGuest returns a guest whose supervisor does not run yet.
func newGuest(t *testing.T, orders supervise.Orders, argv ...string) *guest {
	t.Helper()
	dir := t.TempDir()
	g := &guest{T: t, in: filepath.Join(dir, "in"), out: filepath.Join(dir, "out"), log: &buffer{}, start: filepath.Base(filepath.Dir(dir)) + filepath.Base(dir)}
	for _, path := range []string{g.in, g.out} {
		if err := os.Mkdir(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.start) > 40 {
		g.start = g.start[len(g.start)-40:]
	}
	g.order(orders)
	g.cmd = exec.Command(os.Args[0], append([]string{g.in, g.out}, argv...)...)
	g.cmd.Env = append(os.Environ(), roleVariable+"=supervise")
	g.cmd.Stdout, g.cmd.Stderr = g.log, os.Stderr
	g.cmd.WaitDelay = patience
	return g
}

func (g *guest) run() *guest {
	g.Helper()
	if err := g.cmd.Start(); err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() {
		if g.cmd.ProcessState == nil {
			left := descendants(g.T, g.cmd.Process.Pid)
			_ = g.cmd.Process.Kill()
			for _, pid := range left {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			_ = g.cmd.Wait()
		}
		if g.Failed() {
			text := g.log.String()
			g.Logf("log: %s", text[max(0, len(text)-4000):])
		}
	})
	return g
}

// fast makes the supervisor's time pass quickly.
func (g *guest) fast() *guest {
	g.cmd.Env = append(g.cmd.Env, fastVariable+"=1")
	return g
}

// shell returns a guest that runs a script.
func shell(t *testing.T, orders supervise.Orders, script string) *guest {
	t.Helper()
	return newGuest(t, orders, "sh", "-c", script)
}

// order replaces the orders, as the agent does.
func (g *guest) order(o supervise.Orders) {
	g.Helper()
	o.Start = g.start
	if o.Workload == "" {
		o.Workload = supervise.Run
	}
	text, err := json.Marshal(o)
	if err != nil {
		g.Fatal(err)
	}
	path := filepath.Join(g.in, supervise.OrdersFile)
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		g.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		g.Fatal(err)
	}
}

// await waits for a report that is as wanted, and returns it.
func (g *guest) await(what string, wanted func(supervise.Report) bool) supervise.Report {
	g.Helper()
	return g.awaitIn(g.out, what, wanted)
}

func (g *guest) awaitIn(folder, what string, wanted func(supervise.Report) bool) supervise.Report {
	g.Helper()
	var last supervise.Report
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var text []byte
		if text, err = os.ReadFile(filepath.Join(folder, supervise.ReportFile)); err != nil {
			continue
		}
		if last, err = supervise.Parse(text); err == nil && wanted(last) {
			return last
		}
	}
	g.Fatalf("got report %+v, %v, want one that is %s", last, err, what)
	return last
}

func final(r supervise.Report) bool   { return r.Final }
func running(r supervise.Report) bool { return !r.StartTime.IsZero() && r.FinishTime.IsZero() }

// awaitLog waits until the log has the text.
func (g *guest) awaitLog(text string) {
	g.Helper()
	gomega.NewWithT(g.T).Eventually(g.log.String).WithTimeout(patience).Should(gomega.ContainSubstring(text))
}

// end ends the supervisor with SIGTERM and returns its exit code.
func (g *guest) end() int {
	g.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		g.Fatal(err)
	}
	var exit *exec.ExitError
	if err := g.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		g.Fatal(err)
	}
	return g.cmd.ProcessState.ExitCode()
}

// content returns what the log has of one stream, joined as a reader joins it.
func (g *guest) content(name string) string {
	g.Helper()
	var b strings.Builder
	for line := range strings.Lines(g.log.String()) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) != 4 || len(parts[0]) != len("2006-01-02T15:04:05.000000000Z") || parts[2] != "F" && parts[2] != "P" {
			g.Fatalf("got log line %.200q, want one of the CRI's format", line)
		}
		if parts[1] != name {
			continue
		}
		if parts[2] == "P" {
			parts[3] = strings.TrimSuffix(parts[3], "\n")
		}
		b.WriteString(parts[3])
	}
	return b.String()
}

// role returns a command that is a client of the guest.
func (g *guest) role(role string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{g.in}, args...)...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.WaitDelay = patience
	return cmd
}
