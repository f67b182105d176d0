// SPDX-License-Identifier: Apache-2.0

// Package heartbeat records when the node's machines were last guarded, so that the next
// agent can tell for how long nobody did. It does not guard anything itself.
package heartbeat

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bootid"
)

const (
	// interval is the least time between two writes.
	interval = time.Second
	// size is the length of the file. It is written in place: at one write per second,
	// replacing it would cost far more.
	size = 128
)

// Recorder records beats in a file.
type Recorder struct {
	file interface {
		io.WriterAt
		io.Closer
	}
	boot string
	now  func() (time.Duration, error)
	log  logr.Logger

	mu sync.Mutex
	// last is the last beat of an earlier agent that guarded machines during this boot of
	// the node. It counts only if earlier is true.
	last    time.Duration
	earlier bool
	// gap is the result, once beating is true.
	gap     time.Duration
	beating bool
	written time.Duration
	writing bool
	failing bool

	writes sync.WaitGroup
}

// Open opens the file, which only root may write to, and reads the last beat. The caller
// must be the only one that uses the file.
func Open(path string, log logr.Logger) (*Recorder, error) {
	boot, err := bootid.Read()
	if err != nil {
		return nil, fmt.Errorf("heartbeat: %w", err)
	}
	return open(path, log, boot, sinceBoot)
}

func open(path string, log logr.Logger, boot string, now func() (time.Duration, error)) (*Recorder, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("heartbeat: %w", err)
	}
	r := &Recorder{file: f, boot: boot, now: now, log: log}
	text := make([]byte, size)
	n, err := f.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, fmt.Errorf("heartbeat: %w", err)
	}
	r.last, r.earlier = parse(string(text[:n]), boot)
	return r, nil
}

// parse returns the time of a beat. It returns false if no machine was guarded then, or
// if the node has booted since: no machine survived that.
func parse(text, boot string) (time.Duration, bool) {
	var of string
	var at int64
	var machines int
	if _, err := fmt.Sscanf(text, "%s %d %d", &of, &at, &machines); err != nil || of != boot || at < 0 || machines <= 0 {
		return 0, false
	}
	return time.Duration(at), true
}

// sinceBoot returns the time since the node booted. Unlike the time of day, nobody sets it.
func sinceBoot() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

// Beat records that this number of machines is guarded now. It does not wait for the disk,
// and a failure is logged once: neither must keep the guard from its work.
func (r *Recorder) Beat(machines int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := r.now()
	if err == nil && !r.beating {
		r.begin(now)
	} else if err == nil && (r.writing || now-r.written < interval) {
		return
	}
	if err != nil {
		r.report(err)
		return
	}
	r.written, r.writing = now, true
	r.writes.Go(func() {
		_, err := r.file.WriteAt(fmt.Appendf(nil, "%-*s\n", size-1, fmt.Sprintf("%s %d %d", r.boot, now, machines)), 0)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.writing = false
		r.report(err)
	})
}

// report logs the first of several errors; nil ends them. The caller holds r.mu.
func (r *Recorder) report(err error) {
	if err != nil && !r.failing {
		r.log.Error(err, "The time of the last check cannot be recorded, so the next agent will overstate for how long nobody guarded the machines")
	}
	r.failing = err != nil
}

func (r *Recorder) begin(now time.Duration) {
	r.beating = true
	if !r.earlier {
		return
	}
	r.gap = max(0, now-r.last)
	r.log.Info("Nobody guarded the machines while there was no agent; their walls stayed as they were", "duration", r.gap.Round(time.Millisecond))
}

// unguarded returns the time between the last beat of an earlier agent and the first one
// of this agent, or now if there has not been one yet.
func (r *Recorder) unguarded() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.beating || !r.earlier {
		return r.gap
	}
	now, err := r.now()
	if err != nil {
		return 0
	}
	return max(0, now-r.last)
}

// Metric returns the metric bottle_agent_unguarded_seconds.
func (r *Recorder) Metric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bottle_agent_unguarded_seconds",
		Help: "Time from the last check of the machines and walls by the previous agent to the first one by this agent. " +
			"It is 0 if no machine was guarded at the last check, or if the node has booted since.",
	}, func() float64 { return r.unguarded().Seconds() })
}

// Close waits for the last write and closes the file.
func (r *Recorder) Close() error {
	r.writes.Wait()
	return r.file.Close()
}
