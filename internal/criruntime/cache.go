// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/keyed"
	"botbottle.dev/bottle-operator/internal/netns"
)

const (
	// unwatchedAge is how long a result is used while no events arrive. An error is never
	// used for longer.
	unwatchedAge = time.Second
	// watchedAge is how long a Pod that was found is used while events arrive. It is
	// bounded, because a runtime may lose an event.
	watchedAge = time.Minute
)

// cache has the result of the last lookup for each Bottle.
type cache struct {
	locks keyed.Locks // by UID: one lookup at a time

	mu      sync.Mutex
	entries map[string]entry // by the owner's UID
	drops   int              // counts the calls of drop, after which results of earlier lookups are outdated
	watched bool             // events arrive
	now     func() time.Time
}

type entry struct {
	owner host.Owner
	pod   Pod
	err   error
	at    time.Time
}

func (c *cache) init() {
	c.entries, c.now = map[string]entry{}, time.Now
}

// get returns an entry that may still be used.
func (c *cache) get(owner host.Owner) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[owner.UID]
	if !ok || e.owner != owner {
		return entry{}, false
	}
	limit := unwatchedAge
	if c.watched && e.err == nil {
		limit = watchedAge
	}
	return e, c.now().Sub(e.at) < limit
}

// version changes whenever a lookup that began earlier may be out of date.
func (c *cache) version() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drops
}

// put stores the result of a lookup, unless it is outdated: began is the version at which
// the lookup began.
func (c *cache) put(e entry, began int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if began == c.drops {
		e.at = c.now()
		c.entries[e.owner.UID] = e
	}
}

// drop forgets the owner's Pod; "" means all.
func (c *cache) drop(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	if uid == "" {
		clear(c.entries)
		return
	}
	delete(c.entries, uid)
}

// setWatched says whether events arrive.
func (c *cache) setWatched(watched bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watched = watched
}

// Pod returns the owner's Pod, if its sandbox is running. The error is ErrNotFound if no
// sandbox is running, or if the sandbox of an earlier Pod with the same name still is. It is
// ErrConflict if Pods with different names claim to be the owner's, or if the Pod uses the
// node's network, and ErrUnavailable if the container runtime does not answer.
//
// Pod is cheap enough to be called every second for hundreds of owners: it asks the runtime
// only after an event, or when the network namespace's file has changed.
func (r *Runtime) Pod(ctx context.Context, owner host.Owner) (Pod, error) {
	if e, ok := r.cached(owner); ok {
		return e.pod, e.err
	}
	release, err := r.cache.locks.Acquire(ctx, owner.UID)
	if err != nil {
		return Pod{}, err
	}
	defer release()
	if e, ok := r.cached(owner); ok {
		return e.pod, e.err
	}
	began := r.cache.version()
	pod, err := r.lookUp(ctx, owner)
	if err != nil && (ctx.Err() != nil || errors.Is(err, errSilent)) {
		return Pod{}, err // nobody was asked
	}
	r.cache.put(entry{owner: owner, pod: pod, err: err}, began)
	return pod, err
}

// cached returns the cache's entry if it may still be used: the file of the network
// namespace must still be the one that was found.
func (r *Runtime) cached(owner host.Owner) (entry, bool) {
	e, ok := r.cache.get(owner)
	if !ok || e.err != nil {
		return e, ok
	}
	id, err := r.identify(e.pod.NetNS)
	if err != nil && !errors.Is(err, netns.ErrGone) {
		return entry{err: err}, true
	}
	if err != nil || id != e.pod.NetNSID {
		r.cache.drop(owner.UID)
		return entry{}, false
	}
	return e, true
}

// inPod runs f in the network namespace of the owner's Pod, on a thread of its own. It
// returns ErrNotFound if there is no Pod.
func (r *Runtime) inPod(ctx context.Context, owner host.Owner, f func(p Pod) error) error {
	p, err := r.Pod(ctx, owner)
	if err != nil {
		return err
	}
	err = netns.Do(p.NetNS, p.NetNSID, func() error { return f(p) })
	if errors.Is(err, netns.ErrGone) {
		r.cache.drop(owner.UID)
		return errors.Join(host.ErrNotFound, err)
	}
	return err
}
