// SPDX-License-Identifier: Apache-2.0

package heartbeat

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// node has a clock and a file.
type node struct {
	*testing.T
	file string
	boot string
	now  time.Duration
	bad  error // of the clock
	logs int
}

func newNode(t *testing.T) *node {
	return &node{T: t, file: filepath.Join(t.TempDir(), "heartbeat"), boot: "boot-1", now: time.Hour}
}

func (n *node) agent() *Recorder {
	n.Helper()
	log := funcr.New(func(_, _ string) { n.logs++ }, funcr.Options{})
	h, err := open(n.file, log, n.boot, func() (time.Duration, error) { return n.now, n.bad })
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { h.Close() })
	return h
}

// beat makes a beat and waits until it is written.
func beat(h *Recorder, machines int) {
	h.Beat(machines)
	h.writes.Wait()
}

func (n *node) want(h *Recorder, want float64) {
	n.Helper()
	if got := testutil.ToFloat64(h.Metric()); got != want {
		n.Errorf("got %v s, want %v", got, want)
	}
}

func TestUnguarded(t *testing.T) {
	n := newNode(t)
	first := n.agent()
	n.want(first, 0) // there was none before
	beat(first, 2)
	n.want(first, 0)
	n.now += 10 * time.Second
	beat(first, 2)
	n.want(first, 0) // pauses of one agent do not count

	n.now += 7 * time.Second
	second := n.agent()
	n.now += 500 * time.Millisecond
	n.want(second, 7.5) // still nobody
	beat(second, 2)
	n.now += time.Minute
	beat(second, 2)
	n.want(second, 7.5)
	if n.logs != 1 {
		t.Errorf("got %d lines in the log, want 1", n.logs)
	}
}

func TestNothingToGuard(t *testing.T) {
	n := newNode(t)
	beat(n.agent(), 0)
	n.now += time.Hour
	h := n.agent()
	n.want(h, 0)
	beat(h, 1)
	n.want(h, 0)
}

func TestRebootEndsAllMachines(t *testing.T) {
	n := newNode(t)
	beat(n.agent(), 1)
	n.boot, n.now = "boot-2", 2*time.Hour
	h := n.agent()
	n.want(h, 0)
	beat(h, 1)
	n.now += 3 * time.Second
	n.want(n.agent(), 3)
}

// A beat is written once per second at most, and a longer one is overwritten in full.
func TestWrites(t *testing.T) {
	n := newNode(t)
	h := n.agent()
	beat(h, 1000)
	first := n.read()
	n.now += interval - 1
	beat(h, 1)
	if got := n.read(); got != first {
		t.Errorf("got %q, want no write within a second", got)
	}
	n.now++
	beat(h, 1)
	if got := n.read(); got == first || len(got) != size || strings.Fields(got)[2] != "1" {
		t.Errorf("got %q, want the new beat in %d bytes", got, size)
	}
}

func (n *node) read() string {
	n.Helper()
	b, err := os.ReadFile(n.file)
	if err != nil {
		n.Fatal(err)
	}
	return string(b)
}

func TestOtherContents(t *testing.T) {
	for _, text := range []string{"", "boot-1", "boot-1 x 1", "boot-1 -5 1", "boot-1 5 -1", strings.Repeat("x", 1000), "\x00\x00"} {
		n := newNode(t)
		if err := os.WriteFile(n.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h := n.agent()
		n.want(h, 0)
		beat(h, 1)
		n.now += 2 * time.Second
		n.want(n.agent(), 2)
	}
}

func TestNoLinkIsFollowed(t *testing.T) {
	n := newNode(t)
	if err := os.Symlink("/etc/hostname", n.file); err != nil {
		t.Fatal(err)
	}
	if h, err := Open(n.file, funcr.New(func(_, _ string) {}, funcr.Options{})); err == nil {
		h.Close()
		t.Error("got a link followed, want an error")
	}
}

// The clock and the disk may fail; the guard goes on, and the log says so once.
func TestFailures(t *testing.T) {
	n := newNode(t)
	h := n.agent()
	n.bad = errors.New("no clock")
	for range 3 {
		beat(h, 1)
	}
	n.want(h, 0)
	n.bad = nil
	beat(h, 1)
	if n.logs != 1 {
		t.Errorf("got %d lines in the log, want 1", n.logs)
	}
	h.Close() // now writes fail
	for range 3 {
		n.now += time.Minute
		beat(h, 1)
	}
	if n.logs != 2 {
		t.Errorf("got %d lines in the log, want 2", n.logs)
	}
}

// stalled is a disk that does not answer until it is released.
type stalled struct{ release chan struct{} }

func (s stalled) WriteAt(p []byte, _ int64) (int, error) {
	<-s.release
	return len(p), nil
}

func (stalled) Close() error { return nil }

// While the disk does not answer, neither the guard nor the metric waits for it.
func TestAStalledDisk(t *testing.T) {
	n := newNode(t)
	h := n.agent()
	h.Close()
	disk := stalled{make(chan struct{})}
	h.file = disk
	served := make(chan struct{})
	go func() {
		defer close(served)
		for range 3 {
			n.now += time.Minute
			h.Beat(1)
		}
		n.want(h, 0)
	}()
	select {
	case <-served:
	case <-time.After(30 * time.Second):
		t.Error("a beat or the metric waits for the disk")
	}
	close(disk.release)
	<-served
}

// The real clock and the real identity of this boot.
func TestOpen(t *testing.T) {
	n := newNode(t)
	log := funcr.New(func(_, _ string) {}, funcr.Options{})
	h, err := Open(n.file, log)
	if err != nil {
		t.Fatal(err)
	}
	beat(h, 1)
	h.Close()
	again, err := Open(n.file, log)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !again.earlier || again.unguarded() < 0 {
		t.Errorf("got %q not recognised, want it to be of this boot", n.read())
	}
}
