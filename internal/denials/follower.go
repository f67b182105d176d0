// SPDX-License-Identifier: Apache-2.0

// Package denials follows what built-in bundles decide, and keeps the hosts
// that they last denied to each Bottle, for its status. It writes no status
// itself, and requests a pass at most once a minute: a guest must not be able
// to make the agent write.
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
	// PublishEvery is the least time between two changes of what Recent
	// returns.
	PublishEvery = time.Minute
	// followRetry is the pause before a log that was lost is followed again.
	followRetry = 10 * time.Second
)

// Options of a Follower. All are required unless the comment says otherwise.
type Options struct {
	Bundles host.Bundles
	Clock   clock.Clock
	// Decided is called with the verdict of each decision; it may be nil.
	Decided func(verdict string)
	// Changed is called when Recent returns something else for a Bottle.
	Changed func(uid string)
}

// Follower follows the logs of built-in bundles, one for each Bottle.
type Follower struct {
	Options

	mu        sync.Mutex
	ctx       context.Context // of the agent; ends every following
	following map[string]*following
}

// following is one log that is followed.
type following struct {
	container string             // "" once its log has ended
	until     time.Time          // just after the last decision that was seen
	stop      context.CancelFunc // ends the following
	denials   egress.Denials

	published   []string // nil until something was denied
	publishedAt time.Time
	scheduled   bool // the next publication is
}

// New returns a Follower that follows nothing yet.
func New(o Options) *Follower {
	if o.Decided == nil {
		o.Decided = func(string) {}
	}
	return &Follower{Options: o, ctx: context.Background(), following: map[string]*following{}}
}

// Bind makes what is followed from now on end with ctx.
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

// Recent returns what a Bottle was last denied; nil if that is nothing.
func (f *Follower) Recent(uid string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.following[uid]; one != nil {
		return slices.Clone(one.published)
	}
	return nil
}

// Follow follows the log of the owner's container from since on, or from where
// this Follower left off. It does nothing if that container is followed.
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
			f.Decided(d.Verdict)
			if d.Verdict == host.VerdictDeny {
				f.denied(ctx, owner.UID, one, d)
			}
		})
		if err == nil || ctx.Err() != nil {
			break
		}
		logf.FromContext(ctx).V(1).Info("The log of a bundle was lost and is followed again", "machine", owner.ID(), "error", err.Error())
		select {
		case <-ctx.Done():
		case <-f.Clock.After(followRetry):
		}
	}
	// The container may start again: the next Follow then follows it anew.
	f.mu.Lock()
	defer f.mu.Unlock()
	one.container = ""
}

// denied remembers a denial, and schedules its publication.
func (f *Follower) denied(ctx context.Context, uid string, one *following, d host.Decision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one.denials.Add(d.Host, d.Port)
	if one.scheduled {
		return
	}
	one.scheduled = true
	wait := one.publishedAt.Add(PublishEvery).Sub(f.Clock.Now())
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-f.Clock.After(max(wait, time.Second)):
		}
		f.mu.Lock()
		one.scheduled, one.published, one.publishedAt = false, one.denials.List(), f.Clock.Now()
		f.mu.Unlock()
		f.Changed(uid)
	}()
}
