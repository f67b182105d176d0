// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

// tellEvery is the least time between two writes of what was denied: a guest
// must not be able to make the agent write.
const tellEvery = time.Minute

// follows are the logs of built-in bundles that are followed, one per Bottle.
type follows struct {
	mu  sync.Mutex
	all map[string]*follow // by UID
}

type follow struct {
	container string
	until     time.Time // of the last decision that was seen
	end       context.CancelFunc
	denials   egress.Denials
	// told is what the status is to say; nil until something was denied.
	told   []string
	toldAt time.Time
	// telling: a pass was asked for that tells more.
	telling bool
}

func newFollows() *follows { return &follows{all: map[string]*follow{}} }

// end stops following a Bottle's bundle.
func (f *follows) end(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[uid]; one != nil {
		one.end()
		delete(f.all, uid)
	}
}

// told is what the status of a Bottle is to say it was denied; nil for no news.
func (f *follows) told(uid string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[uid]; one != nil {
		return slices.Clone(one.told)
	}
	return nil
}

// follow follows the log of the Bottle's bundle, if that is the built-in one,
// from since on, and says in the status what it denied.
func (r *Reconciler) follow(s *scope, since time.Time) {
	uid, container := s.owner.UID, ptr.Deref(s.status.Bundle.ContainerID, "")
	if s.bottle.Spec.Bundle != nil && s.bottle.Spec.Bundle.Image != nil {
		r.follows.end(uid)
		s.status.Egress = nil // they are of another bundle's
		s.tellLeak()
		return
	}
	if told := r.follows.told(uid); told != nil {
		s.status.Egress = &v1alpha1.EgressStatus{RecentDenials: told}
		s.tellLeak()
	}
	r.follows.mu.Lock()
	defer r.follows.mu.Unlock()
	one := r.follows.all[uid]
	if one != nil && one.container == container {
		return
	}
	if one != nil {
		one.end()
		if !one.until.IsZero() {
			since = one.until // this agent has seen no more of it
		}
	}
	r.mu.Lock()
	ctx, cancel := context.WithCancel(r.watches)
	r.mu.Unlock()
	one = &follow{container: container, end: cancel}
	r.follows.all[uid] = one
	go r.followDecisions(ctx, s.owner, since, one)
}

// followDecisions follows until the container or ctx ends.
func (r *Reconciler) followDecisions(ctx context.Context, owner host.Owner, since time.Time, one *follow) {
	k := types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name}
	for ctx.Err() == nil {
		err := r.Bundles.FollowDecisions(ctx, owner, since, func(d host.Decision) {
			since = d.Time.Add(time.Nanosecond)
			r.follows.mu.Lock()
			one.until = since
			r.follows.mu.Unlock()
			r.Metrics.decision(d.Verdict)
			if d.Verdict == host.VerdictDeny {
				r.denied(ctx, k, one, d)
			}
		})
		if err == nil || ctx.Err() != nil {
			break
		}
		logf.FromContext(ctx).V(1).Info("The log of a bundle is followed again", "machine", owner.ID(), "error", err.Error())
		select {
		case <-ctx.Done():
		case <-r.Clock.After(forNode):
		}
	}
	// The container may come back: whoever looks at it then follows it anew.
	r.follows.mu.Lock()
	defer r.follows.mu.Unlock()
	one.container = ""
}

// denied remembers a denial, and has it told in due time.
func (r *Reconciler) denied(ctx context.Context, k types.NamespacedName, one *follow, d host.Decision) {
	r.follows.mu.Lock()
	defer r.follows.mu.Unlock()
	one.denials.Add(d.Host, d.Port)
	if one.telling {
		return
	}
	one.telling = true
	wait := one.toldAt.Add(tellEvery).Sub(r.Clock.Now())
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-r.Clock.After(max(wait, time.Second)):
		}
		r.follows.mu.Lock()
		one.telling, one.told, one.toldAt = false, one.denials.List(), r.Clock.Now()
		r.follows.mu.Unlock()
		r.Enqueue(k)
	}()
}
