// SPDX-License-Identifier: Apache-2.0

// Package machineview keeps the only cache of smolvm's list of machines. One
// list per interval serves the whole node. Another is read only for a machine
// that was invalidated since then, and concurrent callers share it. The package
// changes no machine and does not know Bottles.
package machineview

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/clock"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/internal/host"
)

// Lister lists all machines of the node, as host.Machines does.
type Lister interface {
	ListMachines(ctx context.Context) ([]host.Machine, error)
}

// View caches smolvm's list of machines.
type View struct {
	machines Lister
	clock    clock.WithTicker
	interval time.Duration
	changed  func(name string)

	mu sync.Mutex
	// seq orders lists and invalidations.
	seq     uint64
	invalid map[string]uint64 // when each machine was last invalidated
	last    *list             // the last list that succeeded
	current *list             // the list under way; nil if there is none
	polled  map[string]host.Machine
	// unreachable counts, for each machine, the polls in a row that found it
	// unreachable.
	unreachable map[string]int
}

// list is one list of machines, under way or done.
type list struct {
	seq  uint64 // when it started
	done chan struct{}

	// Set before done is closed.
	at     time.Time
	byName map[string]host.Machine
	err    error
}

// New returns a View that polls once per interval while Start runs. It calls
// changed with the name of each machine that has changed since the last poll.
func New(machines Lister, c clock.WithTicker, interval time.Duration, changed func(name string)) *View {
	return &View{
		machines: machines, clock: c, interval: interval, changed: changed,
		invalid: map[string]uint64{}, unreachable: map[string]int{},
	}
}

// Get returns the machine with this name, from a list that started after the
// machine was last invalidated and is not older than two intervals. present is
// false if smolvm lists no such machine. An error is the Lister's, or means that
// ctx ended first.
func (v *View) Get(ctx context.Context, name string) (m host.Machine, present bool, err error) {
	for {
		v.mu.Lock()
		if v.fresh(name) {
			m, present = v.last.byName[name]
			v.mu.Unlock()
			return m, present, nil
		}
		l := v.join(ctx)
		current := l.seq > v.invalid[name]
		v.mu.Unlock()
		if err := l.wait(ctx); err != nil && (current || ctx.Err() != nil) {
			return host.Machine{}, false, err
		}
		if current {
			m, present = l.byName[name]
			return m, present, nil
		}
	}
}

// Invalidate makes the next Get for this machine use a new list. Call it after
// every change to the machine, and whenever its state is in doubt.
func (v *View) Invalidate(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seq++
	v.invalid[name] = v.seq
}

// UnreachablePolls returns how many polls in a row found the machine
// unreachable.
func (v *View) UnreachablePolls(name string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unreachable[name]
}

// fresh reports whether the last list is still valid for the machine; v.mu is
// held.
func (v *View) fresh(name string) bool {
	return v.last != nil && v.last.seq > v.invalid[name] && v.clock.Since(v.last.at) <= 2*v.interval
}

// join returns the list that is under way, and starts one if there is none; v.mu
// is held. The list continues after ctx ends, because others may wait for it.
// The Lister bounds its duration.
func (v *View) join(ctx context.Context) *list {
	if v.current == nil {
		v.seq++
		v.current = &list{seq: v.seq, done: make(chan struct{})}
		go v.run(context.WithoutCancel(ctx), v.current)
	}
	return v.current
}

func (v *View) run(ctx context.Context, l *list) {
	machines, err := v.machines.ListMachines(ctx)
	if err != nil {
		l.err = fmt.Errorf("list the node's machines: %w", err)
	}
	l.byName = make(map[string]host.Machine, len(machines))
	for _, m := range machines {
		l.byName[m.Name] = m
	}
	v.mu.Lock()
	l.at = v.clock.Now()
	v.current = nil
	if l.err == nil {
		v.last = l
		for name, seq := range v.invalid {
			if seq < l.seq {
				delete(v.invalid, name)
			}
		}
	}
	v.mu.Unlock()
	close(l.done)
}

// wait waits until the list is done and returns its error. If ctx ends first, it
// returns the error of ctx.
func (l *list) wait(ctx context.Context) error {
	select {
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return fmt.Errorf("list the node's machines: %w", context.Cause(ctx))
	}
}

// Poll lists once and calls changed for each machine that differs from the
// previous poll.
func (v *View) Poll(ctx context.Context) error {
	v.mu.Lock()
	l := v.join(ctx)
	v.mu.Unlock()
	if err := l.wait(ctx); err != nil {
		return err
	}
	for _, name := range v.compare(l.byName) {
		v.changed(name)
	}
	return nil
}

// compare stores the result of a poll and returns the names of the machines that
// changed since the previous one.
func (v *View) compare(now map[string]host.Machine) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := v.polled
	v.polled = now
	var changed []string
	for name, m := range now {
		if m.State == host.MachineUnreachable {
			v.unreachable[name]++
		} else {
			delete(v.unreachable, name)
		}
		if b, ok := before[name]; !ok || b.State != m.State || b.PID != m.PID || !b.StartTime.Equal(m.StartTime) {
			changed = append(changed, name)
		}
	}
	for name := range before {
		if _, ok := now[name]; !ok {
			delete(v.unreachable, name)
			changed = append(changed, name)
		}
	}
	return changed
}

// Start polls until ctx ends.
func (v *View) Start(ctx context.Context) error {
	log := logf.FromContext(ctx).WithName("machine-poll")
	ticker := v.clock.NewTicker(v.interval)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		switch err := v.Poll(ctx); {
		case err != nil && !failing && ctx.Err() == nil:
			log.Error(err, "Cannot list machines")
			failing = true
		case err == nil && failing:
			log.Info("Machines can be listed again")
			failing = false
		}
	}
}
