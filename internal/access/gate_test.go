// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"botbottle.dev/bottle-operator/test/await"
)

// frame returns a control frame of a type, or, for 0, a data frame.
func frame(kind byte, length int) string {
	size := []byte{0, byte(length >> 16), byte(length >> 8), byte(length)}
	head := []byte{0, 0, 0, 1}
	if kind > 0 {
		head = []byte{0x80, 3, 0, kind}
	}
	return string(append(head, size...)) + strings.Repeat("x", length)
}

func newGate(frames string, streams int) (g *gate, started, ended chan struct{}) {
	started, ended = make(chan struct{}), make(chan struct{})
	return &gate{
		in: bufio.NewReader(strings.NewReader(frames)), streams: streams, until: time.Now().Add(time.Hour),
		started: started, ended: ended, refuse: func() {},
	}, started, ended
}

func TestGate(t *testing.T) {
	t.Parallel()
	syn := frame(synStream, 12)
	for name, tt := range map[string]struct {
		before, refused string
		late            bool
	}{
		"everything that a session needs": {before: frame(ping, 4) + syn + syn + frame(windowUpdate, 8) + frame(0, 1<<10) + frame(0, 0) + frame(0, 32<<10) + frame(rstStream, 8) + frame(settings, 12) + frame(goAway, 8)},
		"the longest data":                {before: syn + syn + frame(0, maxDataFrame)},
		"data that is too long":           {before: syn, refused: frame(0, maxDataFrame+1)},
		"headers that are too long":       {before: syn, refused: frame(synStream, maxControlFrame+1)},
		"one stream too many":             {before: syn + syn, refused: syn},
		"a late stream":                   {before: frame(ping, 4), refused: syn, late: true},
		"more headers":                    {before: syn, refused: frame(8, 12)},
		"a reply":                         {before: syn, refused: frame(2, 12)},
	} {
		t.Run(name, func(t *testing.T) {
			g, started, _ := newGate(tt.before+tt.refused, 2)
			close(started)
			ended := false
			g.refuse = func() { ended = true }
			if tt.late {
				g.until = time.Now()
			}
			var got bytes.Buffer
			_, err := io.Copy(&got, g)
			if got.String() != tt.before {
				t.Errorf("got %d bytes, want the %d that belong to a session", got.Len(), len(tt.before))
			}
			if refused := tt.refused != ""; errors.Is(err, errFrames) != refused || ended != refused {
				t.Errorf("got %v, session ended %v, want %v", err, ended, refused)
			}
		})
	}
}

// Data waits until the command has its streams, because the library could be blocked by
// data of a stream that nobody reads.
func TestGateHoldsData(t *testing.T) {
	t.Parallel()
	before, data := frame(synStream, 12)+frame(0, 0), frame(0, 10)
	read := func(g *gate) (string, error) {
		all := make([]byte, len(before)+len(data))
		n, err := io.ReadFull(g, all)
		return string(all[:n]), err
	}
	g, started, _ := newGate(before+data, 1)
	if got := make([]byte, len(before)); true {
		if _, err := io.ReadFull(g, got); err != nil || string(got) != before {
			t.Fatalf("got %q, %v, want what comes before the data", got, err)
		}
	}
	passed := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(g, make([]byte, len(data)))
		passed <- err
	}()
	runtime.Gosched()
	select {
	case err := <-passed:
		t.Fatalf("got data, %v, before the command had its streams", err)
	default:
	}
	close(started)
	if err := <-passed; err != nil {
		t.Errorf("got %v, want the data", err)
	}

	g, _, ended := newGate(before+data, 1)
	close(ended)
	if got, err := read(g); got != before || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after the end: got %q, %v, want what comes before the data", got, err)
	}
}

// A client that opens more streams than its command has leaves nothing behind. No other test
// runs meanwhile, because this one counts goroutines.
func TestTooManyStreams(t *testing.T) {
	w := newWorld(t)
	attack := func() {
		t.Helper()
		conn := w.open(t, url.Values{"command": {"sleep", "3600"}, "stdout": {"true"}})
		defer conn.Close()
		for _, kind := range []string{"error", "stdout"} {
			if _, err := conn.CreateStream(http.Header{"Streamtype": {kind}}); err != nil {
				t.Fatalf("stream %s: %v", kind, err)
			}
		}
		go func() { _, _ = conn.CreateStream(http.Header{"Streamtype": {"stdin"}}) }() // nobody replies
		select {
		case <-conn.CloseChan():
		case <-time.After(time.Second): // the client goes
		}
	}
	attack()
	await.True(t, "the end of the first session", func() bool { return w.server.Sessions.all() == 0 })
	// A client's own goroutine waits for the reply for 30 s. The server would leave seven or
	// more of each session.
	const sessions, few = 10, 10
	goroutines := runtime.NumGoroutine()
	for range sessions {
		attack()
	}
	await.True(t, "the end of all sessions", func() bool { return w.server.Sessions.all() == 0 })
	await.True(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() < goroutines+sessions+few })
}

// A client that opens another stream instead of the one for errors is in the audit log too.
func TestNoErrorStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn := w.open(t, url.Values{"command": {"sh", "-c", "echo out; exit 3"}, "stdout": {"true"}})
	defer conn.Close()
	for range 2 {
		stream, err := conn.CreateStream(http.Header{"Streamtype": {"stdout"}})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, stream) }()
	}
	if line := w.logged.audit(t, "session-2"); !strings.Contains(line, `"exitCode"=3`) || !strings.Contains(line, `"verb"="exec"`) {
		t.Errorf("got %s, want the verb and the exit code", line)
	}
	await.True(t, "the end of the session", func() bool { return w.server.Sessions.all() == 0 })
}

// open opens a session without streams.
func (w *world) open(t *testing.T, query url.Values) httpstream.Connection {
	t.Helper()
	conn, err := tls.Dial("tcp", w.address, w.tls(w.client))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url("exec", query).String(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io"}, HeaderSession: {"session-2"}}
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReaderSize(oneByte{conn}, 16), r)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v, want 101", answer, err)
	}
	streams, err := spdy.NewClientConnection(conn)
	if err != nil {
		t.Fatal(err)
	}
	return streams
}

// oneByte reads no more than is needed.
type oneByte struct{ io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.Reader.Read(p[:1]) }
