// SPDX-License-Identifier: Apache-2.0

package access

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// smolvm begins a new file in the middle of a line.
func TestRotationWithinALine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, "2026-01-02T03:04:00Z system F run 1\n2026-01-02T03:04:01Z stdout F one\n2026-01-02T03:04:02Z stdout F tw")
	w.rotate(t)
	w.append(t, host.WorkloadLog, "o\n2026-01-02T03:04:03Z stdout F three\n2026-01-02T")
	w.rotate(t)
	w.append(t, host.WorkloadLog, "03:04:04Z stdout F four\n2026-01-02T03:04:05Z stdout F five\n")
	lines := []string{"one", "two", "three", "four", "five"}
	for tail := range len(lines) + 1 {
		want := strings.Join(append(lines[len(lines)-tail:], ""), "\n")
		code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"tailLines": {fmt.Sprint(tail)}}))
		if code != http.StatusOK || got != want {
			t.Errorf("tail %d: got %d %q, want %q", tail, code, got, want)
		}
	}
}

// smolvm discards output that it cannot write fast enough, in the middle of lines.
func TestDiscardedOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, "2026-01-02T03:04:00Z system F run 1\n"+
		"2026-01-02T03:04:01Z stdout F one[smolvm: 16384 bytes of workload output dropped]\n"+
		"end of a lost line\n"+
		"2026-01-02T03:04:02Z stdout F two\n"+
		"[smolvm: 70 bytes of workload output dropped]\n"+
		"2026-01-02T03:04:03Z stdout F three\n"+
		"2026-01-02T03:04:04Z std[smolvm: 9 bytes of workload output dropped]\n"+
		"another end[smolvm: 8 bytes of workload output dropped]\n"+
		"2026-01-02T03:04:05Z stdout F [smolvm: no bytes of workload output dropped]\n")
	want := []string{
		"2026-01-02T03:04:01Z stdout F one", "system F dropped 16384 bytes", "2026-01-02T03:04:02Z stdout F two", "system F dropped 70 bytes",
		"2026-01-02T03:04:03Z stdout F three", "system F dropped 9 bytes", "system F dropped 8 bytes",
		"2026-01-02T03:04:05Z stdout F [smolvm: no bytes of workload output dropped]",
	}
	code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"format": {"CRI"}}))
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if code != http.StatusOK || len(lines) != len(want) {
		t.Fatalf("got %d %q, want %d lines", code, lines, len(want))
	}
	for i, line := range lines {
		if !strings.HasSuffix(line, want[i]) {
			t.Errorf("line %d: got %q, want it to end with %q", i, line, want[i])
		}
	}
}

// rotateAway writes and rotates until no earlier file is left. The oldest one that is
// left begins in the middle of a line.
func (w *world) rotateAway(t *testing.T) {
	t.Helper()
	for i := range host.MaxLogGenerations {
		w.rotate(t)
		w.append(t, host.WorkloadLog, fmt.Sprintf(":00Z stdout F joined\n2026-01-02T03:04:00Z stdout F %d\n2026-01-02T03:04", i))
	}
	w.append(t, host.WorkloadLog, ":00Z stdout F last\n")
}

// The beginning of a log that is gone is reported, and the rest of its last line is not
// taken for a line.
func TestLogWithoutItsBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, firstRun+"2026-01-02T03:04")
	w.rotateAway(t)
	code, got := w.get(t, http.MethodGet, w.url("log", nil))
	if first, _, _ := strings.Cut(got, "\n"); code != http.StatusOK || first != "0" || !strings.HasSuffix(got, "\n9\nlast\n") {
		t.Errorf("got %d %q, want whole lines only", code, got)
	}
	code, got = w.get(t, http.MethodGet, w.url("log", url.Values{"format": {"CRI"}}))
	if first, _, _ := strings.Cut(got, "\n"); code != http.StatusOK || !strings.HasSuffix(first, " system F dropped an unknown number of bytes") {
		t.Errorf("got %d %q, want a first line about what is missing", code, got)
	}
}

// A reader that is slower than smolvm rotates learns that it has missed something.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, firstRun+"2026-01-02T03:04")
	files, err := openLog(t.Context(), w.machines, demo.ID(), host.WorkloadLog)
	if err != nil {
		t.Fatal(err)
	}
	defer files.close()
	var got []string
	r := &lineReader{files: files}
	read := func() {
		t.Helper()
		if err := r.read(func(text []byte, _ bool) error { got = append(got, string(text)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	read()
	if want := strings.Split(strings.TrimSuffix(firstRun, "\n"), "\n"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got %q, want %q", got, want)
	}
	got = nil
	w.rotateAway(t)
	if err := files.refresh(); err != nil {
		t.Fatal(err)
	}
	read()
	if len(got) < 3 || !strings.HasSuffix(got[0], " system F dropped an unknown number of bytes") || got[1] != "2026-01-02T03:04:00Z stdout F 0" || !strings.HasSuffix(got[len(got)-1], " last") {
		t.Errorf("got %q, want a line about what is missing, and then whole lines", got)
	}
}

// A file that begins just before the Bottle finishes is part of the log that is followed.
func TestRotationAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, "2026-01-02T03:04:00Z system F run 1\n2026-01-02T03:04:01Z stdout F one\n2026-01-02T03:04:02Z stdout F tw")
	calls := 0
	w.bottles.beforeFind = func() {
		if calls++; calls != 2 { // the first call is for the request, the second one after the log was read
			return
		}
		w.rotate(t)
		w.append(t, host.WorkloadLog, "o\n2026-01-02T03:04:03Z stdout F three\n")
		w.bottles.change(func(b *Bottle) { b.Finished = true })
	}
	code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"follow": {"true"}}))
	if want := "one\ntwo\nthree\n"; code != http.StatusOK || got != want || calls < 2 {
		t.Errorf("got %d %q after %d looks, want %q", code, got, calls, want)
	}
}
