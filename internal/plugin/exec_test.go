// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"botbottle.dev/bottle-operator/internal/plugin"
)

func TestExec(t *testing.T) {
	for name, tt := range map[string]struct {
		input                string
		noWebSockets, noSPDY bool
		webSocket            bool // what carries the session
	}{
		"input":                     {input: "hello"},
		"no input":                  {webSocket: true},
		"input, SPDY refused":       {input: "hello", noSPDY: true, webSocket: true},
		"input, WebSockets refused": {input: "hello", noWebSockets: true},
		"no input, SPDY refused":    {noSPDY: true, webSocket: true},
		"no input, no WebSockets":   {noWebSockets: true},
	} {
		for _, code := range []int{0, 1, 42, 137} {
			t.Run(fmt.Sprintf("%s, exit code %d", name, code), func(t *testing.T) {
				c := newCluster(t)
				c.put(ready("demo"))
				c.noWebSockets, c.noSPDY = tt.noWebSockets, tt.noSPDY
				c.guest = func(s *session) int {
					var in []byte
					if s.in != nil {
						in, _ = io.ReadAll(s.in)
					}
					fmt.Fprintf(s.out, "out %s %q", in, s.command)
					fmt.Fprint(s.err, "err")
					return code
				}
				args := []string{"exec", "demo", "-i", "--", "sh", "-c", "exit; -i"}
				if tt.input == "" {
					args = slices.Delete(args, 2, 3)
				}
				got := c.input(tt.input, args...)
				if got.code != code || got.out != fmt.Sprintf(`out %s ["sh" "-c" "exit; -i"]`, tt.input) {
					t.Errorf("got %+v, want exit code %d", got, code)
				}
				want := "err"
				if code != 0 {
					want += fmt.Sprintf("command terminated with exit code %d\n", code)
				}
				if got.errOut != want {
					t.Errorf("got stderr %q, want %q", got.errOut, want)
				}
				if s := c.sessions[0]; s.websocket != tt.webSocket || s.bottle != "demo" || s.tty {
					t.Errorf("got session %+v", s)
				}
			})
		}
	}
}

func TestExecWithoutWebSockets(t *testing.T) {
	t.Setenv("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = func(*session) int { return 6 }
	if got := c.bottle("exec", "demo", "--", "true"); got.code != 6 || len(c.sessions) != 1 || c.sessions[0].websocket {
		t.Errorf("got %+v and sessions %+v, want one over SPDY", got, c.sessions)
	}
}

func TestExecWithoutStdin(t *testing.T) {
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = func(s *session) int { return 0 }
	if got := c.input("unread", "exec", "demo", "--", "true"); got.code != 0 {
		t.Errorf("got %+v", got)
	}
	if q := c.sessions[0].query; q.Get("stdin") == "true" || q.Get("stdout") != "true" || q.Get("stderr") != "true" {
		t.Errorf("got %v", q)
	}
}

func TestExecCarriesMuch(t *testing.T) {
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = func(s *session) int {
		if _, err := io.Copy(s.out, s.in); err != nil {
			return 1
		}
		return 0
	}
	const size = 4 << 20 // more than all buffers on the way
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(data)
	got := c.input(string(data), "exec", "demo", "-i", "--", "cat")
	if got.code != 0 || sha256.Sum256([]byte(got.out)) != sha256.Sum256(data) {
		t.Errorf("got exit code %d and %d bytes, want %d unchanged; %s", got.code, len(got.out), size, got.errOut)
	}
}

func TestExecRefused(t *testing.T) {
	for name, refusal := range map[string]metav1.Status{
		"forbidden": status(403, metav1.StatusReasonForbidden, `bottles.subresources.botbottle.dev "demo" is forbidden: no`),
		"too many":  status(429, metav1.StatusReasonTooManyRequests, "the machine serves 6 sessions already"),
		"away":      status(503, metav1.StatusReasonServiceUnavailable, "the node's agent does not answer"),
		"conflict":  status(409, metav1.StatusReasonConflict, "the machine does not run"),
		"control":   status(409, metav1.StatusReasonConflict, "red\x1b[31m \u202e"),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.put(ready("demo"))
			c.refuse["GET exec"] = []metav1.Status{refusal}
			c.refuse["POST exec"] = []metav1.Status{refusal}
			got := c.bottle("exec", "demo", "--", "true")
			want := strings.NewReplacer("\x1b", `\x1b`, "\u202e", `\u202e`).Replace(refusal.Message)
			if got.code != 1 || !strings.Contains(got.errOut, want) || got.out != "" {
				t.Errorf("got %+v, want exit code 1 and the message", got)
			}
		})
	}
}

func TestUsageErrors(t *testing.T) {
	c := newCluster(t)
	for _, args := range []string{
		"exec demo true", "exec -- true", "exec demo", "exec", "attach", "shell", "cp a b", "cp demo:/a demo:/b", "cp demo: x", "cp a", "logs", "logs demo --source x",
		"logs demo --since 1s --since-time 2026-01-01T00:00:00Z", "logs demo --tail -2", "logs demo --since-time x", "run", "run demo -t -- x", "run demo --memory x -- x",
		"run demo --copy-in /absent -- x", "run demo --env =x -- x", "run demo --env-from-secret : -- x", "run demo --timeout -1s -- x", "run demo --copy-out : -- x",
		"proof", "egress", "why", "stop", "recreate demo", "nonsense",
	} {
		got := c.bottle(strings.Fields(args)...)
		if got.code != 1 || got.errOut == "" {
			t.Errorf("%s: got %+v, want exit code 1 and a message", args, got)
		}
	}
	if len(c.requests) > 0 {
		t.Errorf("got requests %q, want none", c.requests)
	}
}

func TestNotFound(t *testing.T) {
	c := newCluster(t)
	for _, args := range []string{"exec no -- true", "logs no", "why no", "egress no", "proof no", "stop no", "start no", "restart no", "recreate no --yes", "cp no:/a /tmp/never-made", "shell no", "attach no"} {
		got := c.bottle(strings.Fields(args)...)
		if got.code != 1 || !strings.Contains(got.errOut, `bottles.botbottle.dev "no" not found`) {
			t.Errorf("%s: got %+v, want that it is not found", args, got)
		}
	}
}

// TestSignal ends a session that would go on for ever.
func TestSignal(t *testing.T) {
	for _, noWebSockets := range []bool{false, true} {
		c := newCluster(t)
		c.put(ready("demo"))
		c.noWebSockets = noWebSockets
		begun, ended := make(chan struct{}), make(chan struct{})
		c.guest = func(s *session) int {
			close(begun)
			_, _ = io.Copy(io.Discard, s.in) // ends with the connection
			close(ended)
			return 0
		}
		signals := make(chan os.Signal, 1)
		silent, typist := io.Pipe()
		defer typist.Close()
		r := c.start(silent, signals, "exec", "demo", "-i", "--", "cat")
		<-begun
		signals <- syscall.SIGINT
		if got := r.wait(t); got.code != 130 {
			t.Errorf("got %+v, want exit code 130", got)
		}
		select {
		case <-ended:
		case <-time.After(limit):
			t.Error("the session goes on after its client has gone")
		}
	}
}

// TestTerminal uses a terminal at two sizes.
func TestTerminal(t *testing.T) {
	c := newCluster(t)
	c.put(ready("demo"))
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	size := func(columns, rows uint16) {
		if err := pty.Setsize(slave, &pty.Winsize{Cols: columns, Rows: rows}); err != nil {
			t.Fatal(err)
		}
	}
	size(100, 30)
	c.guest = func(s *session) int {
		if first := <-s.resize; first.Width != 100 || first.Height != 30 {
			return 2
		}
		size(60, 20)
		if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
			return 3
		}
		for next := range s.resize {
			if next.Width == 60 && next.Height == 20 {
				fmt.Fprint(s.out, "resized\r\n")
				return 7
			}
		}
		return 4
	}
	text := &buffer{}
	go func() { _, _ = io.Copy(text, master) }()
	code := plugin.Run(plugin.Invocation{
		Args:    []string{"kubectl-bottle", "--kubeconfig", c.kubeconfig, "exec", "demo", "-it", "--", "top"},
		Streams: genericiooptions.IOStreams{In: slave, Out: slave, ErrOut: slave},
	})
	for end := time.Now().Add(limit); !strings.Contains(text.String(), "resized") && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
	}
	if q := c.sessions[0].query; code != 7 || q.Get("tty") != "true" || q.Get("stderr") == "true" || !strings.Contains(text.String(), "resized") {
		t.Errorf("got exit code %d, %v, %q", code, q, text)
	}
}

func TestNoTerminal(t *testing.T) {
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = func(*session) int { return 0 }
	got := c.bottle("exec", "demo", "-it", "--", "top")
	if got.code != 0 || !strings.Contains(got.errOut, "Unable to use a TTY") || c.sessions[0].tty {
		t.Errorf("got %+v", got)
	}
}

func TestShell(t *testing.T) {
	for name, tt := range map[string]struct {
		has  []string
		want string // the shell that is used; "" for none
	}{
		"bash":    {[]string{"/bin/bash", "/bin/sh"}, "/bin/bash"},
		"only sh": {[]string{"/bin/sh"}, "/bin/sh"},
		"none":    {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.put(ready("demo"))
			c.guest = func(s *session) int {
				if !strings.Contains(" "+strings.Join(tt.has, " ")+" ", " "+s.command[0]+" ") {
					return 127
				}
				if len(s.command) == 1 {
					fmt.Fprintf(s.out, "$ %s", s.command[0])
					return 5
				}
				return 0
			}
			got := c.bottle("shell", "demo")
			if tt.want == "" {
				if got.code != 1 || !strings.Contains(got.errOut, "neither bash nor sh") {
					t.Errorf("got %+v", got)
				}
				return
			}
			if got.code != 5 || got.out != "$ "+tt.want {
				t.Errorf("got %+v, want %s", got, tt.want)
			}
		})
	}
}

func TestAttach(t *testing.T) {
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = func(s *session) int {
		in, _ := io.ReadAll(s.in)
		fmt.Fprintf(s.out, "got %s", in)
		return 3
	}
	got := c.input("x", "attach", "demo", "-i")
	if got.code != 3 || got.out != "got x" || c.sessions[0].command != nil {
		t.Errorf("got %+v", got)
	}
}
