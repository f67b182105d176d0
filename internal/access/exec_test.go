// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// asExit returns the exit code that an executor reported, 0 if it reported none.
func asExit(err error) (exit exec.CodeExitError) {
	errors.As(err, &exit)
	return exit
}

func TestExec(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tt := range map[string]struct {
		argv             []string
		in               string
		code             int
		wantOut, wantErr string
	}{
		"success":      {argv: []string{"true"}},
		"failure":      {argv: []string{"false"}, code: 1},
		"exit code":    {argv: []string{"sh", "-c", "exit 42"}, code: 42},
		"killed":       {argv: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		"no command":   {argv: []string{"no-such-program"}, code: 255},
		"stdout":       {argv: []string{"sh", "-c", "echo out"}, wantOut: "out\n"},
		"stderr":       {argv: []string{"sh", "-c", "echo err >&2"}, wantErr: "err\n"},
		"stdin's end":  {argv: []string{"cat"}, in: "to the end", wantOut: "to the end"},
		"strange argv": {argv: []string{"sh", "-c", "echo a b\"c'd"}, wantOut: "a b\"c'd\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: strings.NewReader(tt.in), Stdout: &out, Stderr: &errs}, nil, tt.argv...)
			if exit := asExit(err); exit.Code != tt.code || (err == nil) != (tt.code == 0) {
				t.Errorf("got %v, want exit code %d", err, tt.code)
			}
			if out.String() != tt.wantOut || errs.String() != tt.wantErr {
				t.Errorf("got %q and %q, want %q and %q", out.String(), errs.String(), tt.wantOut, tt.wantErr)
			}
		})
	}
}

func TestExecCarriesEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	in := make([]byte, 8<<20)
	_, _ = rand.Read(in)
	var out bytes.Buffer
	if err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: bytes.NewReader(in), Stdout: &out}, nil, "cat"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(in, out.Bytes()) {
		t.Errorf("got %d bytes, want the %d that were sent", out.Len(), len(in))
	}
	line := w.logged.audit(t, "session-1")
	for _, want := range []string{`"verb"="exec"`, `"namespace"="team"`, `"bottle"="demo"`, `"uid"="` + demo.UID + `"`, fmt.Sprintf(`"bytesIn"=%d`, len(in)), fmt.Sprintf(`"bytesOut"=%d`, len(in)), `"exitCode"=0`} {
		if !strings.Contains(line, want) {
			t.Errorf("audit line: got %s, want %s in it", line, want)
		}
	}
}

func TestAuditHasNoContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: strings.NewReader("hunter2-in"), Stdout: io.Discard, Stderr: io.Discard}, nil, "sh", "-c", "echo hunter2 >&2; exit 3")
	if asExit(err).Code != 3 {
		t.Fatalf("got %v, want exit code 3", err)
	}
	if line := w.logged.audit(t, "session-1"); !strings.Contains(line, `"exitCode"=3`) {
		t.Errorf("got %s, want the exit code in it", line)
	}
	if all := w.logged.String(); strings.Contains(all, "hunter2") {
		t.Errorf("log: got %s, want neither command nor content", all)
	}
}

func TestExecTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sizes := make(chan host.WindowSize, 2)
	w.machines.OnExec(func(_ string, req host.ExecRequest) (int, error) {
		if !req.TTY || req.Stderr != nil {
			return 1, nil
		}
		for range 2 {
			sizes <- <-req.Resize
		}
		_, err := io.WriteString(req.Stdout, "screen")
		return 7, err
	})
	var out bytes.Buffer
	err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Tty: true, TerminalSizeQueue: queue(80, 24, 103, 41)}, nil, "top")
	if asExit(err).Code != 7 || out.String() != "screen" {
		t.Errorf("got %v, %q, want exit code 7 and the screen", err, out.String())
	}
	if got, want := []host.WindowSize{<-sizes, <-sizes}, []host.WindowSize{{Columns: 80, Rows: 24}, {Columns: 103, Rows: 41}}; !slices.Equal(got, want) {
		t.Errorf("sizes: got %v, want %v", got, want)
	}
}

// sizeQueue implements remotecommand.TerminalSizeQueue.
type sizeQueue chan remotecommand.TerminalSize

func queue(sizes ...uint16) sizeQueue {
	q := make(sizeQueue, len(sizes)/2)
	for i := 0; i < len(sizes); i += 2 {
		q <- remotecommand.TerminalSize{Width: sizes[i], Height: sizes[i+1]}
	}
	return q
}

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	select {
	case s := <-q:
		return &s
	default:
		return nil
	}
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	w, calls := newWorld(t), 0
	for name, options := range map[string]remotecommand.StreamOptions{
		"silent":          {Stdout: io.Discard},
		"with open stdin": {Stdin: blocked{}, Stdout: io.Discard},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- w.exec(ctx, t, options, nil, "sleep", "3600") }()
			calls++
			await.True(t, "the command", func() bool { return w.commands() == calls })
			cancel()
			if err := <-ended; err == nil {
				t.Error("client: got nil, want an error")
			}
			await.True(t, "the end of the session", func() bool { return w.server.Sessions.Commands(demo.UID) == 0 })
		})
	}
}

// TestKilledClient kills a client whose input the guest does not read: nobody reads from
// the connection then.
func TestKilledClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cut := w.proxy(t)
	ended := make(chan error, 1)
	go func() {
		ended <- w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: endless{}, Stdout: io.Discard}, nil, "sleep", "3600")
	}()
	await.True(t, "a full connection", cut.stuck)
	cut.kill()
	<-ended
	await.True(t, "the end of the session", func() bool { return w.server.Sessions.Commands(demo.UID) == 0 })
}

// commands returns how many commands have been started in the guest.
func (w *world) commands() (n int) {
	for _, call := range w.machines.Faults.Calls() {
		if call == "Exec "+demo.ID() {
			n++
		}
	}
	return n
}

// blocked is a reader that never returns.
type blocked struct{}

func (blocked) Read([]byte) (int, error) { select {} }

// TestEarlyEndKeepsOutput ends a command while its client still sends.
func TestEarlyEndKeepsOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.machines.OnExec(func(_ string, req host.ExecRequest) (int, error) {
		_, _ = io.ReadFull(req.Stdin, make([]byte, 1000))
		_, err := req.Stdout.Write(bytes.Repeat([]byte("x"), 1<<20))
		return 3, err
	})
	for range 20 {
		var out bytes.Buffer
		err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: endless{}, Stdout: &out}, nil, "head")
		if asExit(err).Code != 3 || out.Len() != 1<<20 {
			t.Fatalf("got %v and %d bytes, want exit code 3 and all output", err, out.Len())
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestExecBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	version, err := w.machines.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	version.Sessions, version.Version = 2, "1.9.1"
	w.machines.SetVersion(version)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, purpose := range []string{"", "Files"} {
		go func() {
			_ = w.exec(ctx, t, remotecommand.StreamOptions{Stdout: io.Discard}, url.Values{"purpose": {purpose}}, "sleep", "3600")
		}()
	}
	await.True(t, "two commands", func() bool { return w.commands() == 2 })
	if n, _ := w.server.Sessions.Sessions(demo.UID); n != 1 {
		t.Errorf("copies: got %d, want 1", n)
	}
	err = w.exec(t.Context(), t, remotecommand.StreamOptions{Stdout: io.Discard}, nil, "true")
	if err == nil || !strings.Contains(err.Error(), "the machine runs 2 commands") || !strings.Contains(err.Error(), "1.9.1") {
		t.Errorf("third command: got %v, want the bound and the version", err)
	}
	cancel()
	await.True(t, "the end of the sessions", func() bool {
		n, last := w.server.Sessions.Sessions(demo.UID)
		return n == 0 && !last.IsZero() && w.server.Sessions.Commands(demo.UID) == 0
	})
	if err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdout: io.Discard}, nil, "true"); err != nil {
		t.Errorf("afterwards: got %v, want nil", err)
	}
}

func TestExecRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stdout := url.Values{"stdout": {"true"}, "command": {"true"}}
	with := func(q url.Values, name string, values ...string) url.Values {
		out := url.Values{name: values}
		for k, v := range q {
			if k != name {
				out[k] = v
			}
		}
		return out
	}
	for name, tt := range map[string]struct {
		verb   string
		query  url.Values
		change func()
		want   int
		text   string
	}{
		"no upgrade":       {query: stdout, want: http.StatusBadRequest, text: "SPDY"},
		"no command":       {query: with(stdout, "command"), want: http.StatusBadRequest, text: "command: required"},
		"empty command":    {query: with(stdout, "command", ""), want: http.StatusBadRequest, text: "command: required"},
		"NUL":              {query: with(stdout, "command", "a\x00b"), want: http.StatusBadRequest, text: "NUL"},
		"long argument":    {query: with(stdout, "command", strings.Repeat("x", 128<<10)), want: http.StatusBadRequest, text: "131071"},
		"no stream":        {query: url.Values{"command": {"true"}}, want: http.StatusBadRequest, text: "at least one"},
		"tty and stderr":   {query: with(with(stdout, "tty", "true"), "stderr", "true"), want: http.StatusBadRequest, text: "stderr"},
		"unknown purpose":  {query: with(stdout, "purpose", "Fun"), want: http.StatusBadRequest, text: "purpose"},
		"finished":         {query: stdout, change: func() { w.bottles.change(func(b *Bottle) { b.Finished = true }) }, want: http.StatusConflict, text: "finished"},
		"files are closed": {query: with(stdout, "purpose", "Files"), change: func() { w.bottles.change(func(b *Bottle) { b.Finished = true }) }, want: http.StatusServiceUnavailable, text: "for copies"},
		"no supervisor":    {verb: "attach", query: stdout, want: http.StatusBadRequest, text: "no supervisor"},
		"closed stdin":     {verb: "attach", query: with(stdout, "stdin", "true"), change: supervised(w, func(*Bottle) {}), want: http.StatusBadRequest, text: "Closed"},
		"attach and tty":   {verb: "attach", query: with(stdout, "tty", "true"), change: supervised(w, func(*Bottle) {}), want: http.StatusBadRequest, text: "Terminal"},
		"attach, finished": {verb: "attach", query: stdout, change: supervised(w, func(b *Bottle) { b.Finished = true }), want: http.StatusConflict, text: "finished"},
	} {
		t.Run(name, func(t *testing.T) {
			w.bottles.change(func(b *Bottle) { *b = Bottle{Owner: demo} })
			if tt.change != nil {
				tt.change()
			}
			verb := tt.verb
			if verb == "" {
				verb = "exec"
			}
			code, body := w.get(t, http.MethodPost, w.url(verb, tt.query))
			if code != tt.want || !strings.Contains(body, tt.text) || !strings.Contains(body, `"kind":"Status"`) {
				t.Errorf("got %d %s, want %d and %q", code, body, tt.want, tt.text)
			}
		})
	}
	w.bottles.change(func(b *Bottle) { *b = Bottle{Owner: demo} })
	if status := w.webSocket(t, w.url("exec", stdout)); status != http.StatusBadRequest {
		t.Errorf("WebSocket: got %d, want 400: the pings of a session are SPDY's", status)
	}
	w.machines.Kill(demo.ID())
	err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdout: io.Discard}, nil, "true")
	if err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("stopped machine: got %v, want that it is not running", err)
	}
}

// webSocket asks for a WebSocket and returns the status of the answer.
func (w *world) webSocket(t *testing.T, u *url.URL) int {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: w.tls(w.client)}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {"v4.channel.k8s.io"}}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

func supervised(w *world, change func(*Bottle)) func() {
	return func() {
		w.bottles.change(func(b *Bottle) {
			b.Supervised = true
			change(b)
		})
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var argv []string
	w.machines.OnExec(func(_ string, req host.ExecRequest) (int, error) {
		argv = req.Command
		_, err := io.WriteString(req.Stdout, "output")
		return 0, err
	})
	w.bottles.change(func(b *Bottle) { b.Supervised, b.Stdin, b.Terminal = true, true, true })
	var out bytes.Buffer
	if err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Tty: true, TerminalSizeQueue: queue(80, 24)}, nil); err != nil || out.String() != "output" {
		t.Errorf("got %q, %v, want the output", out.String(), err)
	}
	if want := []string{"/run/bottle/in/bottle-guest", "attach", "--stdin", "--tty"}; !slices.Equal(argv, want) {
		t.Errorf("command: got %q, want %q", argv, want)
	}
}

// TestCopy: files are copied while the workload runs, and after its end while the machine
// runs for that.
func TestCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, b := range []Bottle{{Owner: demo}, {Owner: demo, Finished: true, FilesOpen: true}} {
		w.bottles.change(func(now *Bottle) { *now = b })
		var out bytes.Buffer
		err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: strings.NewReader("file"), Stdout: &out}, url.Values{"purpose": {"Files"}}, "cat")
		if err != nil || out.String() != "file" {
			t.Errorf("finished %t: got %q, %v, want the file", b.Finished, out.String(), err)
		}
	}
}

// TestExecLeavesNothing runs 100 commands and looks for what they leave behind. No other
// test runs meanwhile: it counts the goroutines and files of the whole process.
func TestExecLeavesNothing(t *testing.T) {
	w := newWorld(t)
	run := func() {
		t.Helper()
		var out bytes.Buffer
		if err := w.exec(t.Context(), t, remotecommand.StreamOptions{Stdin: strings.NewReader("x"), Stdout: &out, Stderr: io.Discard}, nil, "cat"); err != nil || out.String() != "x" {
			t.Fatalf("got %q, %v, want what was sent", out.String(), err)
		}
	}
	files := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	run()
	await.True(t, "the end of the first session", func() bool { return w.server.Sessions.all() == 0 })
	// Each session would leave one or more.
	const few = 20
	goroutines, open := runtime.NumGoroutine(), files()
	for range 100 {
		run()
	}
	await.True(t, "the end of all goroutines and files", func() bool {
		return runtime.NumGoroutine() < goroutines+few && files() < open+few
	})
}
