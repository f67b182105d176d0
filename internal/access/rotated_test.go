// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// smolvm begins a new file in the middle of a line.
func TestRotationWithinALine(t *testing.T) {
	t.Parallel()
	for kind, rotate := range map[string]func(w *world) error{
		"copied":   func(w *world) error { return w.machines.RotateLog(demo.ID(), host.WorkloadLog) },
		"replaced": func(w *world) error { return w.machines.ReplaceLog(demo.ID(), host.WorkloadLog) },
	} {
		w := newWorld(t)
		next := func(text string) {
			t.Helper()
			if err := rotate(w); err != nil {
				t.Fatal(err)
			}
			w.append(t, host.WorkloadLog, text)
		}
		w.append(t, host.WorkloadLog, "2026-01-02T03:04:00Z system F run 1\n2026-01-02T03:04:01Z stdout F one\n2026-01-02T03:04:02Z stdout F tw")
		r := w.reader(t)
		first := r.read()
		next("o\n2026-01-02T03:04:03Z stdout F three\n2026-01-02T")
		next("03:04:04Z stdout F four\n2026-01-02T03:04:05Z stdout F five\n")
		lines := []string{"one", "two", "three", "four", "five"}
		for tail := range len(lines) + 1 {
			want := strings.Join(append(lines[len(lines)-tail:], ""), "\n")
			code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"tailLines": {fmt.Sprint(tail)}}))
			if code != http.StatusOK || got != want {
				t.Errorf("%s, tail %d: got %d %q, want %q", kind, tail, code, got, want)
			}
		}
		r.refresh()
		if got := strings.Join(append(first, r.read()...), "\n"); !strings.HasSuffix(got, "one\n2026-01-02T03:04:02Z stdout F two\n2026-01-02T03:04:03Z stdout F three\n2026-01-02T03:04:04Z stdout F four\n2026-01-02T03:04:05Z stdout F five") || len(first) != 2 {
			t.Errorf("%s: a reader that was there before got %q, want each line once", kind, got)
		}
	}
}

// testReader reads the workload's log bit by bit.
type testReader struct {
	t *testing.T
	lineReader
}

func (w *world) reader(t *testing.T) *testReader {
	t.Helper()
	files, err := openLog(t.Context(), w.machines, demo.ID(), host.WorkloadLog)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(files.close)
	return &testReader{t, lineReader{files: files}}
}

func (r *testReader) read() (lines []string) {
	r.t.Helper()
	if err := r.lineReader.read(func(text []byte, _ bool) error { lines = append(lines, string(text)); return nil }); err != nil {
		r.t.Fatal(err)
	}
	return lines
}

func (r *testReader) refresh() {
	r.t.Helper()
	if _, err := r.files.refresh(); err != nil {
		r.t.Fatal(err)
	}
}

// While smolvm copies a file, what it has is there twice.
func TestRotationUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, firstRun)
	early := w.reader(t)
	if err := w.machines.CopyLog(demo.ID(), host.WorkloadLog); err != nil {
		t.Fatal(err)
	}
	early.refresh()
	want := strings.Split(strings.TrimSuffix(firstRun, "\n"), "\n")
	for name, r := range map[string]*testReader{"from before": early, "from meanwhile": w.reader(t)} {
		if got := r.read(); !slices.Equal(got, want) {
			t.Errorf("a reader %s got %q, want each line once", name, got)
		}
	}
}

// A file may be emptied and filled again while a reader is behind.
func TestRotationOfAFileThatIsRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, strings.Repeat("2026-01-02T03:04:00Z stdout F old\n", 6000))
	r := w.reader(t)
	count := map[string]int{}
	if err := r.lineReader.read(func(text []byte, _ bool) error {
		line := string(text)
		if count[line]++; line == "2026-01-02T03:04:00Z stdout F old" && count[line] == 1000 {
			w.rotate(t)
			w.append(t, host.WorkloadLog, strings.Repeat("2026-01-02T03:04:01Z stdout F new\n", 5000))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := map[string]int{"2026-01-02T03:04:00Z stdout F old": 6000, "2026-01-02T03:04:01Z stdout F new": 5000}; !maps.Equal(count, want) {
		t.Errorf("got %v, want %v", count, want)
	}
}

// The machine's user may rotate a log faster than it is read.
func TestRotationWithoutEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.append(t, host.WorkloadLog, firstRun)
	want := strings.Split(strings.TrimSuffix(firstRun, "\n"), "\n")
	r := w.reader(t)
	open, rotations := r.files.open, 0
	r.files.open = func(generation int) (host.LogFile, error) {
		if generation == 0 {
			if rotations++; rotations > 1000 {
				return nil, errors.New("the reader does not give up")
			}
			w.rotate(t)
		}
		return open(generation)
	}
	if got := r.read(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := len(r.files.files); n > 2*host.MaxLogGenerations {
		t.Errorf("%d files are open after %d rotations, want those that are not read yet", n, rotations)
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
		"2026-01-02T03:04:05Z stdout F [smolvm: no bytes of workload output dropped]\n"+
		"2026-01-2026-01-02T03:04:06.000000001Z stdout F four\n"+
		"2026-01-02T03:04:07.000000000Z stdout F fi2026-01-02T03:04:08.000000000Z stderr P six\n")
	want := []string{
		"2026-01-02T03:04:01Z stdout F one", "system F dropped 16384 bytes", "system F dropped 18 bytes", "2026-01-02T03:04:02Z stdout F two", "system F dropped 70 bytes",
		"2026-01-02T03:04:03Z stdout F three", "system F dropped 33 bytes", "system F dropped 19 bytes",
		"2026-01-02T03:04:05Z stdout F [smolvm: no bytes of workload output dropped]",
		"2026-01-02T03:04:06.000000001Z stdout F four", "system F dropped 8 bytes",
		"2026-01-02T03:04:07Z stdout F fi", "2026-01-02T03:04:08Z stderr P six",
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
	if first, _, _ := strings.Cut(got, "\n"); code != http.StatusOK || first != "6" || !strings.HasSuffix(got, "\n9\nlast\n") {
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
	r := w.reader(t)
	want := strings.Split(strings.TrimSuffix(firstRun, "\n"), "\n")
	if got := r.read(); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	w.rotateAway(t)
	r.refresh()
	got := r.read()
	if len(got) < 3 || !strings.HasSuffix(got[0], " system F dropped an unknown number of bytes") || got[1] != "2026-01-02T03:04:00Z stdout F 6" || !strings.HasSuffix(got[len(got)-1], " last") {
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
