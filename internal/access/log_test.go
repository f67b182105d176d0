// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// twoRuns is a log with two runs of the workload, in two files.
const (
	firstRun = `2026-01-02T03:04:00Z system F run 1
2026-01-02T03:04:01Z stdout F one
2026-01-02T03:04:02Z stderr F two
`
	secondRun = `2026-01-02T03:04:03Z system F exit 3
2026-01-02T03:05:00Z system F run 2
2026-01-02T03:05:01.5Z stdout P thr
2026-01-02T03:05:01.6Z stdout F ee
2026-01-02T03:05:02Z stderr F four
2026-01-02T03:05:03Z stdout F five
`
)

func (w *world) append(t *testing.T, log host.MachineLog, text string) {
	t.Helper()
	if err := w.machines.AppendLog(demo.ID(), log, text); err != nil {
		t.Fatal(err)
	}
}

func (w *world) rotate(t *testing.T) {
	t.Helper()
	if err := w.machines.RotateLog(demo.ID(), host.WorkloadLog); err != nil {
		t.Fatal(err)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, firstRun)
	w.rotate(t)
	w.append(t, host.WorkloadLog, secondRun)
	w.append(t, host.ConsoleLog, "booting\nup\n")
	w.machines.Kill(demo.ID()) // a log needs no running machine
	for name, tt := range map[string]struct{ query, want string }{
		"all":                {"", "three\nfour\nfive\n"},
		"previous":           {"previous=true", "one\ntwo\n"},
		"previous tail":      {"previous=true&tailLines=1", "two\n"},
		"tail":               {"tailLines=2", "four\nfive\n"},
		"tail with parts":    {"tailLines=3", "three\nfour\nfive\n"},
		"tail is long":       {"tailLines=300", "three\nfour\nfive\n"},
		"no tail":            {"tailLines=0", ""},
		"since":              {"sinceTime=2026-01-02T03:05:02Z", "four\nfive\n"},
		"since long ago":     {"sinceSeconds=9223372036", "three\nfour\nfive\n"},
		"limit":              {"limitBytes=8", "three\nfo"},
		"timestamps":         {"timestamps=true&tailLines=3", "2026-01-02T03:05:01.5Z three\n2026-01-02T03:05:02Z four\n2026-01-02T03:05:03Z five\n"},
		"CRI":                {"format=CRI", "2026-01-02T03:05:01.5Z stdout P thr\n2026-01-02T03:05:01.6Z stdout F ee\n2026-01-02T03:05:02Z stderr F four\n2026-01-02T03:05:03Z stdout F five\n"},
		"console":            {"source=Console", "booting\nup\n"},
		"console tail":       {"source=Console&tailLines=1&timestamps=true", "up\n"},
		"finished, followed": {"follow=true", "three\nfour\nfive\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w.bottles.change(func(b *Bottle) { b.Finished = name == "finished, followed" })
			q, err := url.ParseQuery(tt.query)
			if err != nil {
				t.Fatal(err)
			}
			if code, got := w.get(t, http.MethodGet, w.url("log", q)); code != http.StatusOK || got != tt.want {
				t.Errorf("got %d %q, want %q", code, got, tt.want)
			}
		})
	}
}

func TestLogRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, "2026-01-02T03:04:00Z system F run 1\n")
	for query, want := range map[string]string{
		"source=Disk": "source", "format=JSON": "format", "tailLines=x": "tailLines", "tailLines=-1": "tailLines", "limitBytes=0": "limitBytes",
		"sinceTime=now": "sinceTime", "sinceTime=2026-01-02T03:04:05Z&sinceSeconds=1": "sinceSeconds",
		"previous=true": "no earlier run", "previous=true&follow=true": "follow", "source=Console&previous=true": "runs",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if code, got := w.get(t, http.MethodGet, w.url("log", q)); code != http.StatusBadRequest || !strings.Contains(got, want) {
			t.Errorf("%s: got %d %s, want 400 and %q", query, code, got, want)
		}
	}
}

func TestLogOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, source := range []string{"Workload", "Console", "Bundle", "Egress"} {
		if code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"source": {source}})); code != http.StatusOK || got != "" {
			t.Errorf("%s: got %d %q, want an empty log", source, code, got)
		}
	}
}

// TestLogOfHostileGuest has lines that no supervisor writes.
func TestLogOfHostileGuest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long := strings.Repeat("x", 100_000)
	w.append(t, host.WorkloadLog, "no form\n"+
		"2026-13-99T99:99:99Z stdout F no time\n"+
		"2026-01-02T03:04:00Z elsewhere F no stream\n"+
		"2026-01-02T03:04:00Z stdout X no tag\n"+
		long+"\n"+
		"\x00\xff\n"+
		"2026-01-02T03:04:00Z stdout F fine\n"+
		"unfinished")
	want := "no form\n2026-13-99T99:99:99Z stdout F no time\n2026-01-02T03:04:00Z elsewhere F no stream\n2026-01-02T03:04:00Z stdout X no tag\n" + long + "\n\x00\xff\nfine\nunfinished\n"
	if code, got := w.get(t, http.MethodGet, w.url("log", nil)); code != http.StatusOK || got != want {
		t.Errorf("got %d and %d bytes, want %d: %.300q", code, len(got), len(want), got)
	}
	code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"format": {"CRI"}}))
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	joined := ""
	for _, l := range lines {
		parsed, ok := parseLine([]byte(l))
		if !ok || parsed.stream != stdout || parsed.time.IsZero() || len(parsed.text) > maxPart {
			t.Fatalf("CRI: got %d %.100q, want lines of stdout with a time", code, l)
		}
		joined += string(parsed.text)
		if !parsed.partial {
			joined += "\n"
		}
	}
	if joined != want {
		t.Errorf("CRI: got %.300q, want the same text", joined)
	}
}

// TestLogWithoutData has a file that is far larger than its data.
func TestLogWithoutData(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(firstRun); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	alone := func(int) (host.LogFile, error) { return nil, host.ErrNotFound }
	r := &lineReader{files: &logFiles{open: alone, files: []logFile{{LogFile: f, info: info}}}}
	read := 0
	err = r.read(func(text []byte, _ bool) error {
		if read += len(text); read > 1<<20 {
			return errors.New("it is read on and on")
		}
		return nil
	})
	if err != nil || r.at.off != 1<<40 {
		t.Errorf("got %v at %d, want the end", err, r.at.off)
	}
}

// follow follows a log and returns its lines.
func (w *world) follow(t *testing.T, query string) (lines <-chan string) {
	t.Helper()
	q, err := url.ParseQuery("follow=true&" + query)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: w.tls(w.client)}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url("log", q).String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close(); transport.CloseIdleConnections() })
	out := make(chan string)
	go func() {
		defer close(out)
		for s := bufio.NewScanner(response.Body); s.Scan(); {
			select {
			case out <- s.Text():
			case <-t.Context().Done():
				return
			}
		}
	}()
	return out
}

func TestFollow(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*world){
		"finished": func(w *world) { w.bottles.change(func(b *Bottle) { b.Finished = true }) },
		"deleted":  func(w *world) { w.bottles.delete() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.append(t, host.WorkloadLog, firstRun)
			lines := w.follow(t, "tailLines=1")
			expect := func(want string) {
				t.Helper()
				if got, ok := <-lines; got != want || !ok {
					t.Fatalf("got %q, %v, want %q", got, ok, want)
				}
			}
			expect("two")
			w.append(t, host.WorkloadLog, "2026-01-02T03:04:02Z stdout F half a ")
			w.append(t, host.WorkloadLog, "line\n")
			expect("half a line")
			w.rotate(t)
			for i := range 3 {
				w.append(t, host.WorkloadLog, fmt.Sprintf("2026-01-02T03:04:02Z stdout F %d\n", i))
				w.rotate(t)
				expect(strconv.Itoa(i))
			}
			w.append(t, host.WorkloadLog, "2026-01-02T03:04:02Z stdout F last\n2026-01-02T03:04:02Z stdout P without end")
			end(w)
			expect("last")
			expect("without end")
			if got, ok := <-lines; ok {
				t.Errorf("after the end: got %q, want no more", got)
			}
			await.True(t, "the end of the session", func() bool { return w.server.Sessions.all() == 0 })
		})
	}
}

func TestFollowersClientGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	t.Run("client", func(t *testing.T) { w.follow(t, "") })
	await.True(t, "the end of the session", func() bool { return w.server.Sessions.all() == 0 })
}

func (s *Sessions) all() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// TestBoundedLog floods a log, which the agent keeps bounded.
func TestBoundedLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flood := strings.Repeat("2026-01-02T03:04:00Z stdout F flood flood flood\n", 100_000)
	lines := w.follow(t, "format=CRI")
	w.append(t, host.WorkloadLog, flood)
	if got := <-lines; !strings.Contains(got, "flood") {
		t.Fatalf("got %q, want the flood", got)
	}
	freed, err := w.machines.BoundLogs(t.Context(), demo.ID(), 1<<20)
	if err != nil || freed < int64(len(flood))/2 {
		t.Fatalf("got %d, %v, want most of %d bytes freed", freed, err, len(flood))
	}
	w.append(t, host.WorkloadLog, "2026-01-02T03:04:00Z stdout F after\n")
	code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"format": {"CRI"}}))
	first, rest, _ := strings.Cut(got, "\n")
	if code != http.StatusOK || !strings.Contains(first, " system F dropped ") || len(rest) > 1<<20 || !strings.HasSuffix(rest, " after\n") || strings.Contains(rest, "\x00") {
		t.Errorf("got %d, %d bytes: %.200q, want a line about lost bytes and the last lines", code, len(got), got)
	}
	if code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"tailLines": {"2"}})); code != http.StatusOK || got != "flood flood flood\nafter\n" {
		t.Errorf("tail: got %d %q, want the last two lines", code, got)
	}
	w.bottles.change(func(b *Bottle) { b.Finished = true })
	last := ""
	for l := range lines {
		if strings.Contains(l, "\x00") {
			t.Fatalf("follower: got %.100q, want no freed bytes", l)
		}
		last = l
	}
	if !strings.HasSuffix(last, " after") {
		t.Errorf("follower: got %q, want the last line", last)
	}
}
