// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// Reach is the most that a Bottle's spec lets its guest reach.
type Reach struct {
	// Generation of the spec.
	Generation int64
	// Ports of the bundle.
	Ports []int32
	// Rules of the built-in bundle.
	Rules egress.Set
	// BundleImage is spec.bundle.image, "" for the built-in bundle.
	BundleImage string
	// BundleStays: whatever image the spec names, the present bundle stays until the
	// machine is down.
	BundleStays bool
}

// narrow implements Enforcement.Narrow. It leaves only what both the rules and
// ports in force and reach allow.
func (w *walls) narrow(ctx context.Context, owner host.Owner, reach Reach) error {
	m, folder, err := w.watched.ensure(owner.UID)
	if err != nil {
		return err
	}
	w.watched.mu.Lock()
	m.newest = max(m.newest, reach.Generation) // from now on, nobody opens anything for an older one
	w.watched.mu.Unlock()
	w.copies.narrow(m, owner.UID, func(now egress.Set) egress.Set {
		if w.watched.checkGeneration(m, reach.Generation) != nil {
			return now
		}
		return w.limits().Apply(now.Intersect(reach.Rules), reach.Rules)
	})
	portsErr := w.narrowPorts(ctx, m, reach) // it may have to wait for a kill
	m.lock.Lock()                            // whoever holds it may be waiting for the disk
	defer m.lock.Unlock()
	if err := w.watched.checkGeneration(m, reach.Generation); err != nil {
		return portsErr // the call for the newest generation narrows
	}
	return errors.Join(
		portsErr,
		w.narrowRules(m, folder, reach.Rules),
		w.recordGeneration(m, folder, reach.Generation), // last: a slow or full disk keeps nothing open
	)
}

// recordGeneration records the newest generation and the present ports for the
// next agent. The caller holds m.lock.
func (w *walls) recordGeneration(m *machine, folder state.Folder, generation int64) error {
	w.watched.mu.Lock()
	if m.gone || m.wall.Spec.Owner.UID == "" {
		w.watched.mu.Unlock()
		return nil // there is no wall
	}
	m.wall.Generation, m.unsaved = generation, true
	w.watched.mu.Unlock()
	return w.watched.save(m, folder)
}

// narrowPorts closes the wall's ports that reach does not name. It does not wait for the
// disk.
func (w *walls) narrowPorts(ctx context.Context, m *machine, reach Reach) error {
	m.acting.Lock()
	defer m.acting.Unlock()
	if !w.dropPorts(m, reach) {
		return nil
	}
	_, err := w.repair(ctx, m) // if it fails, the guard tries again in its next scan
	return err
}

// dropPorts removes the ports that reach does not name from the spec of the wall, and reports
// whether there were any.
func (w *walls) dropPorts(m *machine, reach Reach) bool {
	w.watched.mu.Lock()
	defer w.watched.mu.Unlock()
	if m.gone || m.wall.Spec.Owner.UID == "" || m.checkGeneration(reach.Generation) != nil {
		return false
	}
	ports := reach.Ports
	if image := m.wall.BundleImage; image != nil && *image != reach.BundleImage && !reach.BundleStays {
		ports = nil // until the requested bundle runs
	}
	before := m.wall.Spec.Ports
	m.wall.Spec.Ports = slices.DeleteFunc(slices.Clone(before), func(p int32) bool { return !slices.Contains(ports, p) })
	return len(m.wall.Spec.Ports) < len(before)
}

// narrowRules removes everything that rules and the platform's limits do not allow
// from the rules that the bundle reads. The caller holds m.lock.
func (w *walls) narrowRules(m *machine, folder state.Folder, rules egress.Set) error {
	return w.lessen(m, folder, func(now egress.Set) egress.Set { return w.limits().Apply(now.Intersect(rules), rules) })
}

// openRules implements Enforcement.OpenRules.
func (w *walls) openRules(owner host.Owner, generation int64, rules egress.Set) error {
	m, folder, err := w.watched.ensure(owner.UID)
	if err != nil {
		return err
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	if err := w.watched.checkGeneration(m, generation); err != nil {
		return err
	}
	// The limits are read while m.lock is held, so that applyLimits comes after
	// every write with older ones.
	data, err := egress.EncodeFile(w.limits().Apply(rules, rules))
	if err != nil {
		return err
	}
	if _, err := folder.WriteRules(data); err != nil {
		_ = w.narrowRules(m, folder, rules) // most likely, it reports the same error
		return err
	}
	m.rules = nil
	if w.PublishUpstreamCA != nil {
		err = w.PublishUpstreamCA(owner.UID)
	}
	return errors.Join(err, w.copies.open(m, owner.UID, generation, rules))
}

// diskPatience is how long applyLimits waits for the disk. Whoever calls it then learns of
// later limits, which may close more.
const diskPatience = 10 * time.Second

// errStalled means that limits are not written yet.
var errStalled = fmt.Errorf("the state directory's disk does not answer: %w", host.ErrUnavailable)

// applyLimits implements Enforcer.ApplyLimits.
func (w *walls) applyLimits() error {
	uids := w.watched.uids()
	for _, uid := range uids {
		if m := w.watched.find(uid); m != nil {
			w.copies.narrow(m, uid, func(now egress.Set) egress.Set { return w.limits().Limit(now) })
		}
	}
	if !w.limiting.TryLock() {
		return errStalled // with limits of an earlier call
	}
	done := make(chan error, 1)
	go func() {
		defer w.limiting.Unlock()
		done <- w.limitAll(uids)
	}()
	late := w.Clock.NewTimer(diskPatience)
	defer late.Stop()
	var err error
	select {
	case err = <-done:
	case <-late.C():
		err = errStalled
	}
	w.watched.notifyAll()
	return err
}

// limitAll removes what the platform's limits do not allow from all rules files, and returns
// the first error.
func (w *walls) limitAll(uids []string) error {
	var group errgroup.Group
	group.SetLimit(parallelWrites)
	errs := make(chan error, 1)
	for _, uid := range uids {
		group.Go(func() error {
			if err := w.limitRules(uid); err != nil {
				select {
				case errs <- fmt.Errorf("bottle %s: %w", uid, err):
				default: // one is enough
				}
			}
			return nil // the others must not wait for this one
		})
	}
	_ = group.Wait() // always nil
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// parallelWrites is how many rules files are written at the same time.
const parallelWrites = 16

// limitRules removes what the platform's limits do not allow from the rules file
// of one Bottle.
func (w *walls) limitRules(uid string) error {
	folder, err := w.watched.dir.Folder(uid)
	if err != nil {
		return err
	}
	m := w.watched.find(uid)
	if m == nil {
		return nil // it was torn down meanwhile
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	return w.lessen(m, folder, func(now egress.Set) egress.Set { return w.limits().Limit(now) })
}
