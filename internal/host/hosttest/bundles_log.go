// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

// keptDecisions is how many decisions a container's log keeps.
const keptDecisions = 1000

// Decide has the owner's container decide something, now where the decision
// has no time. A container that does not run decides nothing.
func (f *Bundles) Decide(owner host.Owner, d host.Decision) {
	if d.Time.IsZero() {
		d.Time = time.Now()
	}
	d.Host, d.Reason = egress.PrintableHost(d.Host), egress.Printable(d.Reason, 300)
	f.locked(func() {
		if c := f.containers[owner.ID()]; c != nil && c.bundle.Running {
			c.decided++
			c.decisions = append(c.decisions, d)
			c.decisions = c.decisions[max(0, len(c.decisions)-keptDecisions):]
		}
	})
	f.decisions.tellOf(owner)
}

// FollowDecisions implements host.Bundles.
func (f *Bundles) FollowDecisions(ctx context.Context, owner host.Owner, since time.Time, decided func(host.Decision)) error {
	return f.around("FollowDecisions "+owner.ID(), func() error {
		changes := make(chan struct{}, 1)
		changed := func(string) {
			select {
			case changes <- struct{}{}:
			default:
			}
		}
		defer f.networks.watchers.add(changed)()
		defer f.decisions.add(changed)()
		log := &followed{since: since}
		for ctx.Err() == nil {
			fresh, more, err := f.readLog(owner, log)
			for _, d := range fresh {
				decided(d)
			}
			if err != nil || !more {
				return err
			}
			select {
			case <-ctx.Done():
			case <-changes:
			}
		}
		return nil
	})
}

// followed is how far a log was read.
type followed struct {
	id    string // of the container, once known
	since time.Time
	read  int // decisions
}

// readLog returns what is new, and whether more can come.
func (f *Bundles) readLog(owner host.Owner, log *followed) (fresh []host.Decision, more bool, err error) {
	f.locked(func() {
		if f.networks.down {
			err = fmt.Errorf("docker: %w", host.ErrUnavailable)
			return
		}
		c, ferr := f.find(owner)
		if ferr != nil {
			if log.id == "" {
				err = ferr
			}
			return
		}
		if log.id != "" && log.id != c.bundle.ContainerID {
			return
		}
		log.id = c.bundle.ContainerID
		for _, d := range c.decisions[max(0, len(c.decisions)-(c.decided-log.read)):] {
			if !d.Time.Before(log.since) {
				fresh = append(fresh, d)
			}
		}
		log.read = c.decided
		more = c.bundle.Running
	})
	return fresh, more, err
}
