// SPDX-License-Identifier: Apache-2.0

// Package reports notices when a Bottle's supervisor has reported something, and when
// a Bottle's deadline has come, and requests passes over such Bottles. It needs neither
// the API server nor the guest. It decides nothing else.
//
// It looks at each folder for reports twice a second, and more often during the first
// minute of a machine: somebody may be waiting for a short command. Each look takes one
// system call. A watch by the kernel would cost more: a guest can cause any number of
// events.
package reports

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// interval is the time between two looks at the reports.
	interval = 500 * time.Millisecond
	// shortInterval is the same for machines that started less than youth ago.
	shortInterval = 50 * time.Millisecond
	youth         = time.Minute
	// patience is the least time between two requests for passes over one Bottle
	// because of reports that are not final, and between two changes of its status for
	// that reason: a guest must not keep the node or the API server busy.
	patience = time.Minute
	// repeat is the time after which a pass is requested again for a deadline that
	// has come.
	repeat = 10 * time.Second
)

// Subject is what is watched for one Bottle.
type Subject struct {
	// Out is the folder for reports, and Start the start of the machine whose reports
	// count; "" for none.
	Out, Start string
	// Deadline is when a pass is due; zero for never.
	Deadline time.Time
}

// Watch watches the reports of a node's Bottles.
type Watch struct {
	exchanges host.Exchanges
	clock     clock.WithTicker
	changed   func(uid string)

	mu    sync.Mutex
	byUID map[string]*watched
}

type watched struct {
	Subject
	since   time.Time // when this start of the machine was first followed
	mark    host.ReportMark
	again   bool      // read the report once more: it may have changed without its mark
	final   bool      // a pass was requested because of a final report
	waiting bool      // a report that is not final waits for its request
	told    time.Time // when a pass was last requested because of such a report
	wrote   time.Time // when the status last changed because of such a report
	due     time.Time // when a pass was last requested because of the deadline
}

// New returns a Watch that calls changed with the UID of each Bottle that a pass is
// due for.
func New(exchanges host.Exchanges, c clock.WithTicker, changed func(uid string)) *Watch {
	return &Watch{exchanges: exchanges, clock: c, changed: changed, byUID: map[string]*watched{}}
}

// Follow sets what is watched for the Bottle with this UID.
func (w *Watch) Follow(uid string, s Subject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.byUID[uid]
	if have == nil {
		have = &watched{}
		w.byUID[uid] = have
	}
	if have.Start != s.Start || have.Out != s.Out {
		*have = watched{wrote: have.wrote, since: w.clock.Now()}
	}
	if !have.Deadline.Equal(s.Deadline) {
		have.due = time.Time{}
	}
	have.Subject = s
}

// Forget forgets these Bottles.
func (w *Watch) Forget(uids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, uid := range uids {
		delete(w.byUID, uid)
	}
}

// MayWrite reports whether the status of the Bottle may change now because of a report
// that is not final. If it may, it counts as changed; otherwise, it may after wait.
func (w *Watch) MayWrite(uid string) (may bool, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.byUID[uid]
	if have == nil {
		have = &watched{}
		w.byUID[uid] = have
	}
	now := w.clock.Now()
	if since := now.Sub(have.wrote); since < patience {
		return false, patience - since
	}
	have.wrote = now
	return true, 0
}

// Start looks at the reports until ctx ends.
func (w *Watch) Start(ctx context.Context) error {
	ticker := w.clock.NewTicker(shortInterval)
	defer ticker.Stop()
	for due := w.clock.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		if now := w.clock.Now(); now.Before(due) {
			w.lookAt(ctx, now.Add(-youth))
		} else {
			due = now.Add(interval)
			w.Look(ctx)
		}
	}
}

// Look looks at the reports once.
func (w *Watch) Look(ctx context.Context) { w.lookAt(ctx, time.Time{}) }

// lookAt looks at the reports of machines that are followed since then or later.
func (w *Watch) lookAt(ctx context.Context, since time.Time) {
	for _, uid := range w.due(ctx, since) {
		w.changed(uid)
	}
}

// due returns for which of these machines a pass is due.
func (w *Watch) due(ctx context.Context, since time.Time) (due []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.Now()
	for uid, b := range w.byUID {
		if b.since.Before(since) {
			continue
		}
		reported := b.Start != "" && w.reported(ctx, b, now)
		late := !b.Deadline.IsZero() && !now.Before(b.Deadline) && now.Sub(b.due) >= repeat
		if late {
			b.due = now
		}
		if reported || late {
			due = append(due, uid)
		}
	}
	return due
}

// reported reports whether a pass is due because of the Bottle's report.
func (w *Watch) reported(ctx context.Context, b *watched, now time.Time) bool {
	if mark := w.exchanges.Mark(b.Out); mark != b.mark || b.again {
		r, err := w.exchanges.ReadReport(ctx, b.Out)
		if err != nil || r.Start != b.Start {
			return false // it may be half written
		}
		// The kernel's time of a change has a resolution of milliseconds.
		b.again, b.waiting = mark != b.mark, b.waiting || mark != b.mark
		b.mark = mark
		if r.Final && !b.final {
			b.final = true
			return true
		}
	}
	if !b.waiting || now.Sub(b.told) < patience {
		return false
	}
	b.waiting, b.told = false, now
	return true
}
