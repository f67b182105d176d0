// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxParallelRepairs bounds how many machines are rechecked at the same time.
// They run in parallel because a kill waits for its process to end.
const maxParallelRepairs = 64

// recheckPatience is how long a scan waits for what it found to be rechecked.
const recheckPatience = time.Second

// recheckAll rechecks machines. A recheck that takes longer, for example because a process
// does not end, goes on while the next scan looks at all others.
func (g *guard) recheckAll(ctx context.Context, suspects []*machine) {
	if len(suspects) == 0 {
		return
	}
	done := make(chan struct{})
	g.rechecks.Go(func() {
		defer close(done)
		var group errgroup.Group
		group.SetLimit(maxParallelRepairs)
		for _, m := range suspects {
			group.Go(func() error {
				g.recheck(ctx, m)
				return nil
			})
		}
		_ = group.Wait() // always nil
	})
	late := g.Clock.NewTimer(recheckPatience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C():
	}
}

// recheck inspects one machine again while nobody else acts on its wall, and
// kills or repairs as needed. It repairs the wall even if it could not kill the
// machine: either one makes the machine safe.
func (g *guard) recheck(ctx context.Context, m *machine) {
	defer func() {
		g.watched.mu.Lock()
		defer g.watched.mu.Unlock()
		m.checking = false
	}()
	m.acting.Lock()
	uid := g.watched.specOf(m).Owner.UID
	if uid == "" || g.watched.find(uid) != m { // released meanwhile
		m.acting.Unlock()
		return
	}
	faults, err := g.inspect(ctx, m)
	if _, repairErr := g.walls.repair(ctx, m); repairErr != nil {
		err = errors.Join(err, repairErr)
	}
	m.acting.Unlock()
	if ctx.Err() == nil {
		g.reportFaults(m, faults, err)
	}
	g.save(m, uid)
}

// save writes what a recheck has left to be written, unless somebody else is writing for this
// machine: then the guard tries again in its next scan, or a pass does it. The guard does not
// wait for the disk.
func (g *guard) save(m *machine, uid string) {
	if !m.lock.TryLock() {
		return
	}
	g.saving.Go(func() {
		defer m.lock.Unlock()
		folder, err := g.State.Folder(uid)
		if err == nil && g.watched.specOf(m).Owner.UID != "" { // not released meanwhile
			g.leaks.writeEvidence(m, folder)
			_ = g.watched.save(m, folder) // the next pass tries again, and reports it
		}
	})
}

// wait waits until all scans so far have left nothing to be done.
func (g *guard) wait() {
	g.rechecks.Wait()
	g.saving.Wait()
}
