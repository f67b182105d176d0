// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/clock"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/internal/host"
)

// machineView is what smolvm's list of machines last said. One list per
// interval serves the whole node; a pass lists for itself only after a write
// to its own machine, and passes that want to do so at once share one list.
type machineView struct {
	machines host.Machines
	clock    clock.WithTicker
	interval time.Duration
	changed  func(name string) // called for machines that a poll found changed

	listing sync.Mutex // held while a list is under way

	mu     sync.Mutex
	ticks  uint64 // orders lists and writes
	dirty  map[string]uint64
	snap   snapshot
	polled map[string]host.Machine
	// unreachable counts the polls in a row that found a machine so.
	unreachable map[string]int
}

type snapshot struct {
	begun  uint64 // 0: none yet
	at     time.Time
	byName map[string]host.Machine
}

func newMachineView(m host.Machines, c clock.WithTicker, interval time.Duration, changed func(string)) *machineView {
	return &machineView{
		machines: m, clock: c, interval: interval, changed: changed,
		dirty: map[string]uint64{}, unreachable: map[string]int{},
	}
}

// get returns the machine of this name, as of a list that began after the
// last touch of it; false when there is none.
func (v *machineView) get(ctx context.Context, name string) (host.Machine, bool, error) {
	if m, ok, good := v.look(name); good {
		return m, ok, nil
	}
	v.listing.Lock()
	defer v.listing.Unlock()
	if m, ok, good := v.look(name); good {
		return m, ok, nil
	}
	if _, err := v.list(ctx); err != nil {
		return host.Machine{}, false, err
	}
	m, ok, _ := v.look(name)
	return m, ok, nil
}

// touch says that the machine was written to, or that what is known of it must
// not be relied upon.
func (v *machineView) touch(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ticks++
	v.dirty[name] = v.ticks
}

// readings is the number of polls in a row that found the machine unreachable.
func (v *machineView) readings(name string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unreachable[name]
}

func (v *machineView) look(name string) (m host.Machine, present, good bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.clock.Since(v.snap.at) > 2*v.interval
	if v.snap.begun == 0 || old || v.snap.begun < v.dirty[name] {
		return host.Machine{}, false, false
	}
	m, present = v.snap.byName[name]
	return m, present, true
}

// list replaces the snapshot; v.listing is held.
func (v *machineView) list(ctx context.Context) (map[string]host.Machine, error) {
	v.mu.Lock()
	v.ticks++
	begun := v.ticks
	v.mu.Unlock()

	machines, err := v.machines.ListMachines(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the node's machines: %w", err)
	}
	byName := make(map[string]host.Machine, len(machines))
	for _, m := range machines {
		byName[m.Name] = m
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.snap = snapshot{begun: begun, at: v.clock.Now(), byName: byName}
	for name, at := range v.dirty {
		if at < begun {
			delete(v.dirty, name)
		}
	}
	return byName, nil
}

// poll lists once and tells of each machine that differs from the poll before.
func (v *machineView) poll(ctx context.Context) error {
	v.listing.Lock()
	now, err := v.list(ctx)
	v.listing.Unlock()
	if err != nil {
		return err
	}
	v.mu.Lock()
	before := v.polled
	v.polled = now
	for name, m := range now {
		if m.State == host.MachineUnreachable {
			v.unreachable[name]++
		} else {
			delete(v.unreachable, name)
		}
	}
	for name := range v.unreachable {
		if _, ok := now[name]; !ok {
			delete(v.unreachable, name)
		}
	}
	v.mu.Unlock()
	for name, m := range now {
		if b, ok := before[name]; !ok || b.State != m.State || b.PID != m.PID || !b.StartTime.Equal(m.StartTime) {
			v.changed(name)
		}
	}
	for name := range before {
		if _, ok := now[name]; !ok {
			v.changed(name)
		}
	}
	return nil
}

// Start polls until ctx ends.
func (v *machineView) Start(ctx context.Context) error {
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
		switch err := v.poll(ctx); {
		case err != nil && !failing && ctx.Err() == nil:
			log.Error(err, "Machines cannot be listed")
			failing = true
		case err == nil && failing:
			log.Info("Machines can be listed again")
			failing = false
		}
	}
}
