// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

// TestFloodOfRefusals checks that the bundle logs little for a guest that causes refusals
// as fast as it can, and that it still counts every refusal. The connections are on a
// Unix socket.
func TestFloodOfRefusals(t *testing.T) {
	const (
		clients = 4
		batch   = 200 // requests that a client sends before it reads the answers
		length  = 1500 * time.Millisecond
	)
	log := &buffer{}
	p := newProxy(Options{RulesPath: filepath.Join(t.TempDir(), "egress.json"), Log: log, Networks: func() ([]netip.Prefix, error) { return nil, nil }})
	if err := p.rules.start(); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := p.server()
	go func() { _ = server.Serve(listener) }()
	var refused atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range clients {
		wg.Go(func() {
			conn, err := net.Dial("unix", listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			for time.Since(start) < length {
				go func() { _, _ = io.WriteString(conn, strings.Repeat(connect("evil.example.com:443"), batch)) }()
				for range batch {
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					if resp.StatusCode != http.StatusForbidden {
						t.Errorf("got %s, want 403", resp.Status)
					}
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	seconds := time.Since(start).Seconds()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	p.log.flush()
	text := log.String()
	lines := strings.Count(text, "\n")
	logged, leftOut := denials(t, text)
	counted := logged + leftOut
	t.Logf("%d refusals in %.1f s; the log has %.0f lines/s, %.0f bytes/s", refused.Load(), seconds, float64(lines)/seconds, float64(len(text))/seconds)
	if most := logBurst + int((logRate+3)*seconds) + 5; lines > most {
		t.Errorf("log: got %d lines for %d refusals, want at most %d", lines, refused.Load(), most)
	}
	if counted != refused.Load() {
		t.Errorf("log: counts %d refusals, want %d", counted, refused.Load())
	}
}

// denials counts the denials that a log lists, and those that it only counts.
func denials(t *testing.T, log string) (logged, leftOut int64) {
	t.Helper()
	for line := range strings.Lines(log) {
		var l logLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		switch {
		case l.Decision != "deny":
		case l.LeftOut > 0:
			leftOut += int64(l.LeftOut)
		default:
			logged++
		}
	}
	return logged, leftOut
}

// TestLeftOutLinesAreCountedSoon checks that the number of omitted decisions is logged
// even if no other decision follows, and that a flood of refusals does not hide what was
// allowed.
func TestLeftOutLinesAreCountedSoon(t *testing.T) {
	const requests = logBurst + 400
	w := newWorld(t, "api.example.com:80")
	conn := w.connect()
	defer conn.Close()
	r := bufio.NewReader(conn)
	for range requests {
		_, _ = io.WriteString(conn, connect("evil.example.com:443"))
		w.readResponse(r)
	}
	w.roundTrip(get("http://api.example.com/"))
	if !strings.Contains(w.log.String(), `"decision":"allow"`) {
		t.Errorf("log: the allowed request is missing")
	}
	// How many are left out depends on how fast the requests were. None is lost.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		logged, leftOut := denials(t, w.log.String())
		if logged+leftOut == requests && leftOut > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("log: got %d denials and a count of %d more, want %d in total, and some only counted", logged, leftOut, requests)
		}
	}
}

// TestAFloodHidesNoOtherTarget checks that a target that is refused all the time
// does not keep others out of the log, and that many targets are bounded too.
func TestAFloodHidesNoOtherTarget(t *testing.T) {
	log := &buffer{}
	l := newDecisionLog(log)
	refuse := func(host string) { l.decision(target{host: host, port: 443}, deny(egress.Refusal{})) }
	for range 100 * logBurst {
		refuse("telemetry.example.com")
	}
	refuse("wanted.example.com")
	l.decision(target{host: "10.0.0.1", port: 443}, deny(egress.Refusal{Cause: egress.CausePlatform, By: egress.ByNode}))
	for _, want := range []string{`"host":"wanted.example.com"`, `"closed":"node-address"`} {
		if got := strings.Count(log.String(), want); got != 1 {
			t.Errorf("log: got %d lines with %s, want 1", got, want)
		}
	}
	for i := range 100 * logBurst {
		refuse(strconv.Itoa(i) + ".example.com")
	}
	if got, most := strings.Count(log.String(), "\n"), logBurst+newBurst+50; got > most {
		t.Errorf("log: got %d lines for many targets, want at most %d", got, most)
	}
}
