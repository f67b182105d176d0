// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	client "k8s.io/client-go/tools/remotecommand"
	server "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"botbottle.dev/bottle-operator/test/await"
)

// sizes is a queue of terminal sizes that the test fills.
type sizes chan client.TerminalSize

func (s sizes) Next() *client.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

// A terminal has the client's size, and follows its changes.
func TestTerminal(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	w.agent.set(func(a *agent) {
		a.run = func(_ context.Context, _ []string, _ io.Reader, out, errs io.Writer, resize <-chan server.TerminalSize) error {
			for range 2 {
				size := <-resize
				if _, err := fmt.Fprintf(out, "%dx%d ", size.Width, size.Height); err != nil {
					return err
				}
			}
			return nil
		}
	})
	for protocol := range protocols {
		queue := make(sizes, 2)
		queue <- client.TerminalSize{Width: 80, Height: 24}
		queue <- client.TerminalSize{Width: 132, Height: 50}
		out := &strings.Builder{}
		q := url.Values{"command": {"tmux"}, "stdin": {"true"}, "stdout": {"true"}, "tty": {"true"}}
		err := w.execute(protocol, "alice", path("a", "attach"), q, client.StreamOptions{Stdin: strings.NewReader(""), Stdout: out, Tty: true, TerminalSizeQueue: queue})
		close(queue)
		must(t, err)
		if got, want := out.String(), "80x24 132x50 "; got != want {
			t.Errorf("%s: got sizes %q, want %q", protocol, got, want)
		}
	}
}

// When a client goes, or the server stops, the session ends on the agent too, and
// nothing of it is left.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"client", "server"} {
		for protocol := range protocols {
			t.Run(how+" "+protocol, func(t *testing.T) {
				t.Parallel()
				w := start(t, running("a").Obj())
				ended := make(chan struct{})
				w.agent.set(func(a *agent) {
					a.run = func(_ context.Context, _ []string, in io.Reader, out, _ io.Writer, _ <-chan server.TerminalSize) error {
						if _, err := io.WriteString(out, "started"); err != nil {
							return err
						}
						_, err := io.Copy(io.Discard, in) // ends when the connection does
						close(ended)
						return err
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				u, err := url.Parse(w.url + path("a", "exec") + "?" + query3("cat").Encode())
				must(t, err)
				cfg := w.as("alice")
				cfg.Timeout = 0
				e, err := protocols[protocol](cfg, u)
				must(t, err)
				silent, stop := io.Pipe()
				defer stop.Close()
				done := make(chan error, 1)
				output, outputEnd := io.Pipe()
				go func() {
					done <- e.StreamWithContext(ctx, client.StreamOptions{Stdin: silent, Stdout: outputEnd, Stderr: io.Discard})
				}()
				_, err = io.ReadFull(output, make([]byte, len("started")))
				must(t, err)
				if got := testutil.ToFloat64(w.openSessions(t, "exec")); got != 1 {
					t.Errorf("got %v open sessions in the metrics, want 1", got)
				}
				if how == "client" {
					cancel()
				} else {
					w.stop()
				}
				<-ended
				<-done
				await.True(t, "the last audit line", func() bool { return len(w.audit("Session ended", "uid-of-a")) == 1 })
				if got := testutil.ToFloat64(w.openSessions(t, "exec")); got != 0 {
					t.Errorf("got %v open sessions in the metrics, want 0", got)
				}
			})
		}
	}
}

// openSessions is the gauge of open sessions.
func (w *world) openSessions(t *testing.T, verb string) prometheus.Gauge {
	t.Helper()
	m, err := newMetrics(w.reg)
	must(t, err)
	return m.open.WithLabelValues(verb)
}

// A log passes line by line, so that a silent follower sees each line when it comes.
func TestLogFollows(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	lines := make(chan string)
	gone := make(chan struct{})
	w.agent.set(func(a *agent) {
		a.answer = func(rw http.ResponseWriter, r *http.Request) {
			flusher := http.NewResponseController(rw)
			flusher.Flush()
			for {
				select {
				case line, more := <-lines:
					if !more {
						return
					}
					io.WriteString(rw, line)
					flusher.Flush()
				case <-r.Context().Done():
					close(gone)
					return
				}
			}
		}
	})
	body, code := w.follow(t, w.as("alice"), path("a", "log?follow=true&source=Bundle"))
	if code != http.StatusOK {
		t.Fatalf("got %d, want 200", code)
	}
	reader := bufio.NewReader(body)
	for i := range 3 {
		want := fmt.Sprintf("line %d\n", i)
		lines <- want
		got, err := reader.ReadString('\n')
		must(t, err)
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := w.agent.requests()[0].URL.RawQuery; got != "follow=true&source=Bundle" {
		t.Errorf("the agent was asked %q", got)
	}
	body.Close()
	<-gone
	await.True(t, "the last audit line", func() bool {
		return len(w.audit("Session ended", `"verb"="log"`, `"bytesOut"=21`, `"result"="Interrupted"`)) == 1
	})

	// The end of a log is an end, and a broken log is an error.
	body, _ = w.follow(t, w.as("alice"), path("a", "log?follow=true"))
	lines <- "last\n"
	close(lines)
	if all, err := io.ReadAll(body); err != nil || string(all) != "last\n" {
		t.Errorf("got %q, %v, want the last line and no error", all, err)
	}
	w.agent.set(func(a *agent) {
		a.answer = func(rw http.ResponseWriter, _ *http.Request) {
			io.WriteString(rw, "half")
			http.NewResponseController(rw).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	body, _ = w.follow(t, w.as("alice"), path("a", "log"))
	if all, err := io.ReadAll(body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a log that broke off: got %q, %v, want an unexpected end", all, err)
	}
}

// follow starts to read a body. The test closes it.
func (w *world) follow(t *testing.T, cfg *rest.Config, rawPath string) (io.ReadCloser, int) {
	t.Helper()
	cfg.Timeout = 0
	c, err := rest.HTTPClientFor(cfg)
	must(t, err)
	t.Cleanup(c.CloseIdleConnections)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+rawPath, http.NoBody)
	must(t, err)
	response, err := c.Do(r)
	must(t, err)
	t.Cleanup(func() { response.Body.Close() })
	return response.Body, response.StatusCode
}

// One user cannot take all sessions, and a session that has ended makes room.
func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	w.agent.set(func(a *agent) {
		a.answer = func(rw http.ResponseWriter, r *http.Request) {
			http.NewResponseController(rw).Flush()
			if r.URL.Query().Has("follow") {
				<-r.Context().Done()
			}
		}
	})
	var mu sync.Mutex
	var bodies []io.ReadCloser
	var all sync.WaitGroup
	for range maxUserSessions {
		all.Go(func() {
			body, code := w.follow(t, w.as("greedy"), path("a", "log?follow=true"))
			if code != http.StatusOK {
				t.Errorf("got %d, want 200", code)
			}
			mu.Lock()
			defer mu.Unlock()
			bodies = append(bodies, body)
		})
	}
	all.Wait()
	code, body, header := w.upgrade(w.as("greedy"), path("a", "exec?command=true&stdout=true"))
	if code != http.StatusTooManyRequests || header.Get("Retry-After") == "" || !strings.Contains(body, "one user") {
		t.Errorf("one session too many: got %d %s, want 429 with Retry-After", code, body)
	}
	if code, body := w.get(w.as("modest"), path("a", "log")); code != http.StatusOK {
		t.Errorf("another user: got %d %s, want 200", code, body)
	}
	bodies[0].Close()
	await.True(t, "there is room again", func() bool {
		code, _ := w.get(w.as("greedy"), path("a", "log"))
		return code == http.StatusOK
	})
}

// Many accounts of one namespace cannot take all sessions either, nor all namespaces
// together more than a manager can serve.
func TestSessionsOfANamespaceAreBounded(t *testing.T) {
	t.Parallel()
	s := &sessions{byUser: map[string]int{}, byNamespace: map[string]int{}}
	// fill admits sessions, each of another user, until one is refused.
	fill := func(namespace string) (n int, refusal error) {
		for n = 0; n <= maxSessions; n++ {
			if err := s.admit(fmt.Sprintf("%s-%d", namespace, n), namespace); err != nil {
				return n, err
			}
		}
		return n, nil
	}
	for i, want := range []struct {
		n    int
		text string
	}{{maxNamespaceSessions, "this namespace"}, {maxNamespaceSessions, "this namespace"}, {maxSessions - 2*maxNamespaceSessions, "this manager"}} {
		n, err := fill(fmt.Sprint("team-", i))
		if n != want.n || !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("namespace %d: got %d sessions, then %v, want %d, then 429 about %q", i, n, err, want.n, want.text)
		}
	}
	s.release(&session{user: "team-0-7", namespace: "team-0"})
	if err := s.admit("late", "team-0"); err != nil {
		t.Errorf("after the end of one: got %v, want room", err)
	}
	for i := range maxNamespaceSessions {
		s.release(&session{user: fmt.Sprint("team-1-", i), namespace: "team-1"})
	}
	if _, known := s.byNamespace["team-1"]; known {
		t.Error("the namespace without sessions is still counted")
	}
}
