// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestDecisionIn(t *testing.T) {
	const stamp = "2026-01-02T03:04:05.000000006Z "
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for text, want := range map[string]host.Decision{
		`{"time":"x","decision":"deny","host":"a.example","port":443,"reason":"no rule"}`: {
			Time: at, Verdict: host.VerdictDeny, Host: "a.example", Port: 443, Reason: "no rule",
		},
		`{"decision":"fail","host":"\u001b[2J a\u202e","reason":"\u0000"}`: {
			Time: at, Verdict: host.VerdictFail, Host: `\x1b[2J\x20a\u202e`, Reason: `\x00`,
		},
		`{"decision":"deny","leftOut":27000,"host":"a.example","port":1,"reason":"only counted"}`: {
			Time: at, Verdict: host.VerdictDeny, Reason: "only counted", LeftOut: 27000,
		},
		`{"decision":"allow","host":"` + strings.Repeat("h", 70) + `","reason":"` + strings.Repeat("r", 400) + `"}`: {
			Time: at, Verdict: host.VerdictAllow, Host: strings.Repeat("h", 64), Reason: strings.Repeat("r", 300),
		},
		`{"decision":"deny","host":"node.example.com","port":443,"closed":"node-address","reason":"x"}`: {
			Time: at, Verdict: host.VerdictDeny, Host: "node.example.com", Port: 443, Closed: "node-address", Reason: "x",
		},
		`{"decision":"deny","closed":"` + strings.Repeat("\u00e4", 40) + `"}`: {Time: at, Verdict: host.VerdictDeny, Closed: strings.Repeat(`\u00e4`, 5)},
		`{"decision":"deny","host":"a.example","port":443,"rule":"*.example:443","method":"POST","credential":"s/k","secret":"s","key":"k","place":"url","bytesIn":7,"bytesOut":18446744073709551615}`: {
			Time: at, Verdict: host.VerdictDeny, Host: "a.example", Port: 443, Rule: "*.example:443", Method: "POST", Credential: "s/k", Secret: "s", Key: "k", Place: "url", BytesIn: 7, BytesOut: 1 << 50,
		},
		`{"decision":"allow","method":"` + strings.Repeat("M", 9) + `","rule":"` + strings.Repeat("r", 400) + `","secret":"\u001b` + strings.Repeat("s", 400) + `"}`: {
			Time: at, Verdict: host.VerdictAllow, Method: "other", Rule: strings.Repeat("r", 300), Secret: `\x1b` + strings.Repeat("s", 249),
		},
	} {
		if got, ok := decisionIn([]byte(stamp + text)); !ok || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, ok, want)
		}
	}
	for _, line := range []string{
		"", " ", stamp, stamp + "{}", stamp + "null", stamp + "[]", stamp + `"deny"`, `{"decision":"deny"}`,
		stamp + `{"event":"rules","rules":3,"reason":"read the rules"}`,
		stamp + `{"decision":"DENY"}`, stamp + `{"decision":"deny","port":65536}`, stamp + `{"decision":"deny","host":1}`, stamp + `{"decision":"deny"} x`,
		stamp + `{"decision":"deny","leftOut":-1}`, stamp + `{"decision":"deny","leftOut":1e30}`,
		"2026-13-02T03:04:05Z " + `{"decision":"deny"}`,
	} {
		if got, ok := decisionIn([]byte(line)); ok || got != (host.Decision{}) {
			t.Errorf("%q: got %+v, want no decision", line, got)
		}
	}
}

func TestLines(t *testing.T) {
	fits, long := strings.Repeat("f", maxLogLine), strings.Repeat("l", maxLogLine+1)
	text := "one\n\ntwo\n" + fits + "\n" + long + "\nthree\n" + strings.Repeat(long, 20) + "\nfour\nunfinished"
	for _, size := range []int{1, 7, 8 << 10, len(text)} {
		var got []string
		l := &lines{line: func(line []byte) { got = append(got, string(line)) }}
		for chunk := range slices.Chunk([]byte(text), size) {
			if n, err := l.Write(chunk); n != len(chunk) || err != nil {
				t.Fatalf("write: got %d, %v, want %d", n, err, len(chunk))
			}
		}
		if want := []string{"one", "", "two", fits, "three", "four"}; !slices.Equal(got, want) {
			t.Errorf("in pieces of %d: got %d lines, want %d", size, len(got), len(want))
		}
		if cap(l.held) > 4*maxLogLine {
			t.Errorf("in pieces of %d: holds %d bytes, want a bounded buffer", size, cap(l.held))
		}
	}
}

// FuzzDecisionIn checks that decisionIn accepts any input without a panic, and
// that its result is safe to show.
func FuzzDecisionIn(f *testing.F) {
	f.Add([]byte(`2026-01-02T03:04:05Z {"decision":"deny","host":"a\u202e","port":1,"reason":"x"}`))
	f.Add([]byte("2026-01-02T03:04:05Z \x00\xff"))
	f.Fuzz(func(t *testing.T, line []byte) {
		d, ok := decisionIn(line)
		if !ok {
			return
		}
		printable := func(s string, lowest rune) bool {
			return !strings.ContainsFunc(s, func(r rune) bool { return r < lowest || r > '~' })
		}
		if len(d.Host) > 64 || !printable(d.Host, '!') || len(d.Reason) > 300 || len(d.Closed) > 32 || !printable(d.Closed, ' ') || !printable(d.Reason, ' ') || bytes.ContainsAny([]byte(d.Verdict), "\n ") {
			t.Fatalf("%q: got %+v, want bounded printable ASCII", line, d)
		}
	})
}

// TestEndlessLogIsReadSlowly checks that a container that logs without end costs
// the agent a bounded number of bytes per second.
func TestEndlessLogIsReadSlowly(t *testing.T) {
	line := `2026-01-02T03:04:05Z {"decision":"deny","host":"` + strings.Repeat("x", 60) + `","port":1,"reason":"` + strings.Repeat("y", 100) + `"}` + "\n"
	frame := []byte{1, 0, 0, 0, 0, 0, 0, byte(len(line))}
	frames := bytes.Repeat(append(frame, line...), 100)
	e := engineOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			hangAfterPing(w, r)
		case strings.HasSuffix(r.URL.Path, "/logs"):
			for {
				if _, err := w.Write(frames); err != nil {
					return
				}
			}
		default:
			writeContainer(t, w, testOwner, "a", "running", "2026-01-02T03:04:05Z")
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(2*time.Second, cancel)
	start, read := time.Now(), 0
	if err := e.FollowDecisions(ctx, testOwner, time.Time{}, func(host.Decision) { read += len(line) }); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	took := time.Since(start) // the machine may have been busy
	t.Logf("read %d bytes in %s", read, took)
	if most := 1<<20 + (int(took/time.Second)+2)*(64<<10); read > most || read == 0 {
		t.Errorf("read %d bytes in %s, want at most %d", read, took, most)
	}
}
