// SPDX-License-Identifier: Apache-2.0

package supervise_test

import (
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/supervise"
)

func ptr[T any](v T) *T { return &v }

// The package imports nothing of ours, so it has its own copies of the API's words.
func TestWordsOfTheAPI(t *testing.T) {
	got := []string{supervise.RestartAlways, supervise.RestartOnFailure, supervise.RestartNever, supervise.StdinClosed, supervise.StdinOpen, supervise.StdinTerminal}
	want := []string{string(v1alpha1.RestartAlways), string(v1alpha1.RestartOnFailure), string(v1alpha1.RestartNever),
		string(v1alpha1.StdinClosed), string(v1alpha1.StdinOpen), string(v1alpha1.StdinTerminal)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRecord(t *testing.T) {
	at := time.Date(2026, 11, 29, 12, 0, 0, 5, time.UTC)
	for name, want := range map[string]supervise.Report{
		"running": {Start: "a", StartTime: at},
		"paused":  {Start: "a", StartTime: at, FinishTime: at, ExitCode: ptr[int32](0), NextStartTime: at, Restarts: 7},
		"killed":  {Start: "a", StartTime: at, FinishTime: at, Signal: 9, Final: true, LostOutput: 1 << 40},
	} {
		record, err := supervise.Record(want)
		if err != nil {
			t.Fatal(err)
		}
		if len(record) != supervise.MaxReport {
			t.Errorf("%s: got %d bytes, want always %d", name, len(record), supervise.MaxReport)
		}
		got, err := supervise.Parse(record)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: got %v, %s", name, err, diff)
		}
	}
	if _, err := supervise.Record(supervise.Report{Start: strings.Repeat("x", supervise.MaxReport)}); err == nil {
		t.Error("got nil for a report that does not fit, want an error")
	}
}

// TestParseTorn mixes two records at every byte, as a reader may see them while the
// second one is being written.
func TestParseTorn(t *testing.T) {
	at := time.Date(2026, 11, 29, 12, 0, 0, 5, time.UTC)
	old, err := supervise.Record(supervise.Report{Start: "a", StartTime: at})
	if err != nil {
		t.Fatal(err)
	}
	next, err := supervise.Record(supervise.Report{Start: "a", StartTime: at, FinishTime: at, ExitCode: ptr[int32](3), Final: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range old {
		mixed := append(append([]byte{}, next[:i]...), old[i:]...)
		if string(mixed) == string(old) || string(mixed) == string(next) {
			continue
		}
		if r, err := supervise.Parse(mixed); !errors.Is(err, supervise.ErrTorn) {
			t.Fatalf("%d bytes of the next record: got %+v, %v, want ErrTorn", i, r, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	record := func(text string) string { return fmt.Sprintf("%s\n%08x\n", text, crc32.ChecksumIEEE([]byte(text))) }
	if _, err := supervise.Parse([]byte(record(`{"start":"a"}`))); err != nil {
		t.Errorf("a record without padding: got %v", err)
	}
	for name, text := range map[string]string{
		"nothing":                "",
		"only spaces":            strings.Repeat(" ", supervise.MaxReport),
		"no checksum":            `{"start":"a"}` + "\n",
		"another checksum":       `{"start":"a"}` + "\n00000000\n",
		"too large":              record(`{"start":"a"}`) + strings.Repeat(" ", supervise.MaxReport),
		"not JSON":               record("report"),
		"a list":                 record("[]"),
		"an unknown field":       record(`{"start":"a","more":1}`),
		"two reports":            record(`{"start":"a"}{"start":"b"}`),
		"a stray brace":          record(`{"start":"a"}}`),
		"a long start":           record(`{"start":"` + strings.Repeat("a", 65) + `"}`),
		"an exit code of 256":    record(`{"start":"a","exitCode":256}`),
		"an exit code of -1":     record(`{"start":"a","exitCode":-1}`),
		"signal 65":              record(`{"start":"a","signal":65}`),
		"signal -9":              record(`{"start":"a","signal":-9}`),
		"exit code and signal":   record(`{"start":"a","exitCode":0,"signal":9}`),
		"fewer than no restarts": record(`{"start":"a","restarts":-1}`),
		"negative lost output":   record(`{"start":"a","lostOutput":-1}`),
		"the year 1":             record(`{"start":"a","startTime":"0001-01-01T00:00:01Z"}`),
		"half a time":            record(`{"start":"a","startTime":"2026"}`),
	} {
		if r, err := supervise.Parse([]byte(text)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	record, err := supervise.Record(supervise.Report{Start: "a", ExitCode: ptr[int32](1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := supervise.Parse(data)
		if err != nil {
			return
		}
		if _, err := supervise.Record(r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	})
}
