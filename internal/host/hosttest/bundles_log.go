// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

// keptDecisions is how many decisions a container's log keeps.
const keptDecisions = 1000

// Decide adds a decision to the log of the owner's container. If the decision has
// no time, its time is now. If the container does not run, nothing is added.
func (f *Bundles) Decide(owner host.Owner, d host.Decision) {
	if d.Time.IsZero() {
		d.Time = time.Now()
	}
	d.Host, d.Reason = egress.PrintableHost(d.Host), egress.Printable(d.Reason, 300)
	d.Cause, d.Address = egress.Printable(d.Cause, 48), egress.Printable(d.Address, 48)
	f.locked(func() {
		if c := f.containers[owner.ID()]; c != nil && c.bundle.Running {
			c.decided++
			c.decisions = append(c.decisions, d)
			c.decisions = c.decisions[max(0, len(c.decisions)-keptDecisions):]
		}
	})
	f.decisions.notifyOwner(owner)
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
		defer f.networks.watchers.Add(changed)()
		defer f.decisions.Add(changed)()
		position := &logPosition{since: since}
		for ctx.Err() == nil {
			fresh, more, err := f.readLog(owner, position)
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

// logPosition is the position up to which a log was read.
type logPosition struct {
	id    string // of the container, once known
	since time.Time
	read  int // the number of decisions
}

// readLog returns the new decisions, and whether more can come.
func (f *Bundles) readLog(owner host.Owner, position *logPosition) (fresh []host.Decision, more bool, err error) {
	f.locked(func() {
		if f.networks.down {
			err = fmt.Errorf("docker: %w", host.ErrUnavailable)
			return
		}
		c, ferr := f.find(owner)
		if ferr != nil {
			if position.id == "" {
				err = ferr
			}
			return
		}
		if position.id != "" && position.id != c.bundle.ContainerID {
			return
		}
		position.id = c.bundle.ContainerID
		for _, d := range c.decisions[max(0, len(c.decisions)-(c.decided-position.read)):] {
			if !d.Time.Before(position.since) {
				fresh = append(fresh, d)
			}
		}
		position.read = c.decided
		more = c.bundle.Running
	})
	return fresh, more, err
}

// Log adds a line to the log of the owner's container, as if the container had written
// it to stdout or, with Stderr, to stderr.
func (f *Bundles) Log(owner host.Owner, line host.BundleLogLine) {
	f.locked(func() {
		if c := f.containers[owner.ID()]; c != nil {
			line.Text = slices.Clone(line.Text)
			c.lines = append(c.lines, line)
		}
	})
	f.decisions.notifyOwner(owner)
}

// ReadLog implements host.Bundles. It has the lines of Log and of Decide, in two blocks.
func (f *Bundles) ReadLog(ctx context.Context, owner host.Owner, req host.BundleLogRequest, line func(host.BundleLogLine) error) error {
	return f.around("ReadLog "+owner.ID(), func() error {
		changes := make(chan struct{}, 1)
		changed := func(string) {
			select {
			case changes <- struct{}{}:
			default:
			}
		}
		defer f.networks.watchers.Add(changed)()
		defer f.decisions.Add(changed)()
		sent := 0
		for ctx.Err() == nil {
			all, more, err := f.logLines(owner, req)
			if err != nil {
				if sent > 0 {
					return nil
				}
				return err
			}
			for _, l := range all[min(sent, len(all)):] {
				if err := line(l); err != nil {
					return err
				}
				sent++
			}
			if !more || !req.Follow {
				return nil
			}
			select {
			case <-ctx.Done():
			case <-changes:
			}
		}
		return nil
	})
}

// logLines returns the lines of a log, and whether more can come.
func (f *Bundles) logLines(owner host.Owner, req host.BundleLogRequest) (out []host.BundleLogLine, more bool, err error) {
	f.locked(func() {
		if f.networks.down {
			err = fmt.Errorf("docker: %w", host.ErrUnavailable)
			return
		}
		var c *container
		if c, err = f.find(owner); err != nil {
			return
		}
		more = c.bundle.Running
		all := slices.Clone(c.lines)
		for _, d := range c.decisions {
			all = append(all, host.BundleLogLine{Time: d.Time, Decision: &d, Text: []byte(d.Verdict + " " + d.Host)})
		}
		for _, l := range all {
			if l.Time.Before(req.Since) || !req.Until.IsZero() && l.Time.After(req.Until) {
				continue
			}
			out = append(out, l)
		}
		if req.Tail >= 0 && !req.Follow {
			out = out[max(0, len(out)-int(req.Tail)):]
		}
	})
	return out, more, err
}
