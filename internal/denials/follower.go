// SPDX-License-Identifier: Apache-2.0

// Package denials follows the decisions of built-in bundles. For each Bottle it
// keeps the hosts that were last denied, for the status. It writes no status
// itself, and requests a pass at most once a minute, so that a guest cannot make
// the agent write as often as it likes.
package denials

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// PublishInterval is the minimum time between two changes of what Recent
	// returns for a Bottle.
	PublishInterval = time.Minute
	// followDelay is the pause before following a log again after an error.
	followDelay = 10 * time.Second
)

// Options of a Follower. All are required unless the comment says otherwise.
type Options struct {
	Bundles host.Bundles
	Clock   clock.Clock
	// Decided is called with a verdict and the number of decisions with that
	// verdict; it may be nil.
	Decided func(verdict string, n uint32)
	// Changed is called when the result of Recent has changed for a Bottle.
	Changed func(uid string)
}

// Follower follows the logs of built-in bundles, one for each Bottle.
type Follower struct {
	Options

	mu        sync.Mutex
	ctx       context.Context // ends when the agent ends; parent of all followings
	following map[string]*following
}

// following is the state of following one log.
type following struct {
	container string             // "" once its log has ended
	until     time.Time          // just after the last decision that was read
	stop      context.CancelFunc // stops following the log
	denials   egress.Denials

	published   []string // nil until something was denied
	closed      []string // those that the platform closes, with the reasons
	publishedAt time.Time
	scheduled   bool // whether a publication is scheduled
}

// New returns a Follower that follows nothing yet.
func New(o Options) *Follower {
	if o.Decided == nil {
		o.Decided = func(string, uint32) {}
	}
	return &Follower{Options: o, ctx: context.Background(), following: map[string]*following{}}
}

// Bind sets the context that ends the following of logs from now on.
func (f *Follower) Bind(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx = ctx
}

// Stop stops following the bundle of a Bottle, and forgets what it denied.
func (f *Follower) Stop(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.following[uid]; one != nil {
		one.stop()
		delete(f.following, uid)
	}
}

// Recent returns the destinations that a Bottle was last denied; nil if there
// were none.
func (f *Follower) Recent(uid string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.following[uid]; one != nil {
		return slices.Clone(one.published)
	}
	return nil
}

// Closed returns those of Recent that a limit of the platform closes, each as
// "HOST:PORT: REASON".
func (f *Follower) Closed(uid string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.following[uid]; one != nil {
		return slices.Clone(one.closed)
	}
	return nil
}

// Follow follows the log of the owner's container from since on, or from where
// this Follower left off. It does nothing if it already follows that container.
func (f *Follower) Follow(owner host.Owner, container string, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.following[owner.UID]
	if one != nil && one.container == container {
		return
	}
	if one != nil {
		one.stop()
		if !one.until.IsZero() {
			since = one.until
		}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	one = &following{container: container, stop: cancel}
	f.following[owner.UID] = one
	go f.follow(ctx, owner, since, one)
}

// follow returns when the container or ctx ends.
func (f *Follower) follow(ctx context.Context, owner host.Owner, since time.Time, one *following) {
	for ctx.Err() == nil {
		err := f.Bundles.FollowDecisions(ctx, owner, since, func(d host.Decision) {
			since = d.Time.Add(time.Nanosecond)
			f.mu.Lock()
			one.until = since
			f.mu.Unlock()
			f.Decided(d.Verdict, max(1, d.LeftOut))
			if d.Verdict == host.VerdictDeny && d.LeftOut == 0 {
				f.denied(ctx, owner.UID, one, d)
			}
		})
		if err == nil || ctx.Err() != nil {
			break
		}
		logf.FromContext(ctx).V(1).Info("Following the log of a bundle failed and is tried again", "machine", owner.ID(), "error", err.Error())
		select {
		case <-ctx.Done():
		case <-f.Clock.After(followDelay):
		}
	}
	// The container may start again. The next Follow then follows its log again.
	f.mu.Lock()
	defer f.mu.Unlock()
	one.container = ""
}

// denied records a denial and schedules its publication.
func (f *Follower) denied(ctx context.Context, uid string, one *following, d host.Decision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one.denials.AddClosed(d.Host, d.Port, egress.ClosedBy(d.Closed))
	if one.scheduled {
		return
	}
	one.scheduled = true
	wait := one.publishedAt.Add(PublishInterval).Sub(f.Clock.Now())
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-f.Clock.After(max(wait, time.Second)):
		}
		f.mu.Lock()
		one.scheduled, one.published, one.publishedAt = false, one.denials.List(), f.Clock.Now()
		one.closed = one.denials.ListClosed()
		f.mu.Unlock()
		f.Changed(uid)
	}()
}
