// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"

	client "k8s.io/client-go/tools/remotecommand"
	server "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"botbottle.dev/bottle-operator/test/await"
)

// An agent that is not what it should be cannot fill the manager's memory through the
// error stream, nor open streams.
func TestHostileAgent(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	for name, attack := range map[string]func(conn httpstream.Connection, errorStream io.Writer) error{
		"an endless result": func(_ httpstream.Connection, errorStream io.Writer) error {
			for {
				if _, err := errorStream.Write(bytes.Repeat([]byte("x"), 16<<10)); err != nil {
					return err
				}
			}
		},
		"a stream of its own": func(conn httpstream.Connection, _ io.Writer) error {
			go conn.CreateStream(http.Header{"Streamtype": {"stdin"}}) // nobody replies
			<-conn.CloseChan()
			return nil
		},
	} {
		for protocol := range protocols {
			done := make(chan struct{})
			w.agent.set(func(a *agent) {
				a.answer = func(rw http.ResponseWriter, r *http.Request) {
					defer close(done)
					if _, err := httpstream.Handshake(r, rw, []string{"v4.channel.k8s.io"}); err != nil {
						t.Errorf("handshake: %v", err)
					}
					opened := map[string]chan httpstream.Stream{"error": make(chan httpstream.Stream, 1), "stdin": make(chan httpstream.Stream, 1),
						"stdout": make(chan httpstream.Stream, 1), "stderr": make(chan httpstream.Stream, 1)}
					conn := spdy.NewResponseUpgrader().UpgradeResponse(rw, r, func(s httpstream.Stream, _ <-chan struct{}) error {
						opened[s.Headers().Get("Streamtype")] <- s
						return nil
					})
					if conn == nil {
						t.Error("got no connection")
						return
					}
					defer conn.Close()
					// A client that waits for the reply to a stream would do so for 30 s. What it
					// sends to its input says that it waits for none.
					if _, err := io.ReadFull(<-opened["stdin"], make([]byte, len("go"))); err != nil {
						t.Errorf("read the input: %v", err)
					}
					attack(conn, <-opened["error"]) // fails when the manager ends the connection
				}
			})
			err := w.execute(protocol, "alice", path("a", "exec"), query3("true"), client.StreamOptions{Stdin: strings.NewReader("go"), Stdout: io.Discard, Stderr: io.Discard})
			if err == nil {
				t.Errorf("%s, %s: got no error", name, protocol)
			}
			<-done
		}
	}
	await.True(t, "all sessions have ended", func() bool { return len(w.audit("Session ended", `"result"="Interrupted"`)) == 4 })
}

// If the agent goes before it has said how the command ended, the user hears so: it
// is no success, whichever protocol the client speaks, and whether or not it sends
// input at the time.
func TestAgentDies(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	for protocol := range protocols {
		for _, input := range []int{0, 1 << 30} {
			conns := make(chan net.Conn, 1)
			w.agent.set(func(a *agent) {
				a.answer = func(rw http.ResponseWriter, r *http.Request) {
					w.agent.stream(&hijacked{ResponseWriter: rw, conns: conns}, r)
				}
				a.run = func(_ context.Context, _ []string, in io.Reader, out, _ io.Writer, _ <-chan server.TerminalSize) error {
					if _, err := io.CopyN(out, in, 2); err != nil {
						return err
					}
					conn := <-conns
					return conn.Close()
				}
			})
			out := &bytes.Buffer{}
			stdin := io.MultiReader(strings.NewReader("go"), io.LimitReader(zeros{}, int64(input)))
			err := w.execute(protocol, "alice", path("a", "exec"), query3("cat"), client.StreamOptions{Stdin: stdin, Stdout: out, Stderr: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "the connection to the agent of node node-1 ended before the command did") {
				t.Errorf("%s, %d bytes of input: got %v, want an error that says that the agent is gone", protocol, input, err)
			}
			if input == 0 && out.String() != "go" { // a reset, after unread input, may lose output
				t.Errorf("%s: got output %q, want what was sent", protocol, out)
			}
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// hijacked passes on the connection that a handler takes over.
type hijacked struct {
	http.ResponseWriter
	conns chan<- net.Conn
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conns <- conn
	return conn, rw, err
}

// What an agent sends cannot fill the manager's memory.
func TestLongFrames(t *testing.T) {
	t.Parallel()
	reply := [frameHead]byte{0x80, 3, 0, 2}
	for name, tt := range map[string]struct {
		head    [frameHead]byte
		longest int
	}{
		"data":  {[frameHead]byte{0, 0, 0, 7}, 256 << 10},
		"reply": {reply, 4 << 10},
	} {
		for length, want := range map[int]error{tt.longest: nil, tt.longest + 1: errFrame} {
			head := tt.head
			head[5], head[6], head[7] = byte(length>>16), byte(length>>8), byte(length)
			if err := (&traffic{}).fromAgent().feed(head[:]); !errors.Is(err, want) {
				t.Errorf("%s of %d bytes: got %v, want %v", name, length, err, want)
			}
		}
	}
}

// The heads of frames are found wherever the pieces are cut.
func TestFramesInPieces(t *testing.T) {
	t.Parallel()
	data := func(stream byte, payload string) string {
		return string([]byte{0, 0, 0, stream, 0, 0, 0, byte(len(payload))}) + payload
	}
	syn := string([]byte{0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0})
	ping := string([]byte{0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1})
	fromClient := syn + data(7, "hello") + ping + data(7, "") + strings.Replace(syn, "\x05", "\x09", 1) + data(9, "0123456789")
	fromAgent := ping + data(7, "out") + data(5, `{"status":"Fail`) + data(9, "errs") +
		data(5, `ure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"137"}]}}`)
	for range 200 {
		seen := &traffic{}
		feed := func(f *frames, all string) {
			for len(all) > 0 {
				n := min(1+rand.IntN(9), len(all))
				must(t, f.feed([]byte(all[:n])))
				all = all[n:]
			}
		}
		feed(seen.fromClient(), fromClient)
		feed(seen.fromAgent(), fromAgent)
		if in, out := seen.in.Load(), seen.out.Load(); in != 15 || out != 7 {
			t.Fatalf("got %d bytes in and %d out, want 15 and 7", in, out)
		}
		if code, known := seen.exitCode(); !known || code != 137 {
			t.Fatalf("got exit code %d, %v, want 137", code, known)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 5}, []byte{0, 0, 0, 5, 0, 0, 0, 2, '{', '}'}, 3)
	f.Fuzz(func(t *testing.T, in, out []byte, cut int) {
		seen := &traffic{}
		must(t, seen.fromClient().feed(in))
		agent := seen.fromAgent()
		for len(out) > 0 {
			n := min(max(cut, 1), len(out))
			if agent.feed(out[:n]) != nil {
				break
			}
			out = out[n:]
		}
		seen.exitCode()
		if len(seen.result) > maxResult {
			t.Errorf("kept %d bytes", len(seen.result))
		}
	})
}
