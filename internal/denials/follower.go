// SPDX-License-Identifier: Apache-2.0

// Package denials follows the decisions of built-in bundles. For each Bottle it
// keeps the hosts that were last denied, for the status, and reports why requests were
// denied or failed, for Events. It writes neither itself, and asks for that at most once
// a minute, so that a guest cannot make the agent write as often as it likes.
package denials

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/rulenames"
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
	// Decided is called with each decision. Its Rule, Credential, Secret and Key are of the
	// Bottle's own spec, or empty. It may be nil.
	Decided func(d host.Decision)
	// Refused is called with what a Bottle's bundle denied or could not forward, in the
	// words that the guest read, and with the short Secrets that it let through. It is
	// called at most once in PublishInterval for each verdict, and may be nil.
	Refused func(ctx context.Context, owner host.Owner, verdict, refusals string)
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
	names     rulenames.Names    // in the Bottle's spec
	until     time.Time          // just after the last decision that was read
	stop      context.CancelFunc // stops following the log
	denials   egress.Denials
	changed   bool               // denials, since the last publication
	refused   map[string]*report // by verdict

	published   []string // nil until something was denied
	closed      []string // those that the platform closes, with the reasons
	publishedAt time.Time
	scheduled   bool // whether a publication is scheduled
}

// New returns a Follower that follows nothing yet.
func New(o Options) *Follower {
	if o.Decided == nil {
		o.Decided = func(host.Decision) {}
	}
	if o.Refused == nil {
		o.Refused = func(context.Context, host.Owner, string, string) {}
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
// this Follower left off. If it already follows that container, it only notes the spec of
// the Bottle. What a bundle says about rules and Secrets counts only if the spec names them.
func (f *Follower) Follow(owner host.Owner, container string, since time.Time, spec *v1alpha1.BottleSpec) {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.following[owner.UID]
	if one != nil && one.container == container {
		one.names = rulenames.Of(spec)
		return
	}
	if one != nil {
		one.stop()
		if !one.until.IsZero() {
			since = one.until
		}
	}
	ctx, cancel := context.WithCancel(f.ctx)
	old := one
	one = &following{container: container, names: rulenames.Of(spec), stop: cancel, refused: map[string]*report{host.VerdictDeny: {}, host.VerdictFail: {}, host.VerdictAllow: {}}}
	if old != nil { // what was told need not be told again, and what waits is told later
		one.refused, one.publishedAt = old.refused, old.publishedAt
	}
	f.following[owner.UID] = one
	f.schedule(ctx, owner, one)
	go f.follow(ctx, owner, since, one)
}

// follow returns when the container or ctx ends.
func (f *Follower) follow(ctx context.Context, owner host.Owner, since time.Time, one *following) {
	for ctx.Err() == nil {
		err := f.Bundles.FollowDecisions(ctx, owner, since, func(d host.Decision) {
			since = d.Time.Add(time.Nanosecond)
			f.mu.Lock()
			one.until = since
			d = checked(d, one.names)
			f.mu.Unlock()
			f.Decided(d)
			if d.Verdict == host.VerdictAllow && d.Secret != "" {
				d.Cause = string(egress.CauseShortSecret)
			}
			if d.LeftOut == 0 && (d.Verdict != host.VerdictAllow || d.Secret != "") {
				f.add(ctx, owner, one, d)
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

// add records a request that was denied or failed, and schedules the publication.
func (f *Follower) add(ctx context.Context, owner host.Owner, one *following, d host.Decision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	report := one.refused[d.Verdict]
	report.add(refusalOf(d), f.Clock.Now())
	if d.Verdict == host.VerdictDeny {
		one.denials.AddRefusal(refusalOf(d))
		one.changed = true
	}
	f.schedule(ctx, owner, one)
}

// schedule schedules the publication of what was recorded, if there is anything and it is
// not scheduled already. f.mu is held.
func (f *Follower) schedule(ctx context.Context, owner host.Owner, one *following) {
	waits := one.changed
	for _, report := range one.refused {
		waits = waits || len(report.pending) > 0
	}
	if one.scheduled || !waits {
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
		f.publish(ctx, owner, one)
	}()
}

// publish makes what was recorded available, and reports it.
func (f *Follower) publish(ctx context.Context, owner host.Owner, one *following) {
	f.mu.Lock()
	now, changed := f.Clock.Now(), one.changed
	one.scheduled, one.publishedAt, one.changed = false, now, false
	if changed {
		one.published, one.closed = one.denials.List(), one.denials.ListClosed()
	}
	texts := map[string]string{}
	for verdict, report := range one.refused {
		texts[verdict] = report.take(now)
	}
	f.mu.Unlock()
	for verdict, text := range texts {
		if text != "" {
			f.Refused(ctx, owner, verdict, text)
		}
	}
	if changed {
		f.Changed(owner.UID)
	}
}

// checked returns the decision without the names that the Bottle's spec does not have.
func checked(d host.Decision, names rulenames.Names) host.Decision {
	d.Rule, d.Credential = names.Rule(d.Rule), names.Credential(d.Credential)
	d.Secret, d.Key = names.Secret(d.Secret, d.Key)
	if !slices.Contains(egress.Places, d.Place) {
		d.Place = ""
	}
	return d
}

// refusalOf returns the refusal that a bundle logged. Only the names of Secrets in it were
// checked: the bundle reads what guests and hosts write.
func refusalOf(d host.Decision) egress.Refusal {
	addr, _ := netip.ParseAddr(d.Address) // invalid if there is none
	return egress.Refusal{Host: d.Host, Port: d.Port, Cause: egress.Cause(d.Cause), Addr: addr, By: egress.ClosedBy(d.Closed),
		Method: d.Method, Secret: d.Secret, Key: d.Key, Place: d.Place}
}
