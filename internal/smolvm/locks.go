// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// maxExecs is how many execs and copies one guest gets at a time where its
// agent serves eight connections: the rest are for the liveness check.
const maxExecs = 6

// keyed is a lock for each name that is in use.
type keyed struct{ slots keyedSlots }

// lock waits for the name's lock, or for ctx. The caller calls what it gets.
func (k *keyed) lock(ctx context.Context, name string) (unlock func(), err error) {
	return k.slots.acquire(ctx, name, 1)
}

// keyedSlots is a semaphore for each name that is in use. The zero value
// works. Every caller of one keyedSlots gives the same size.
type keyedSlots struct {
	mu    sync.Mutex
	names map[string]*slot
}

type slot struct {
	sem   *semaphore.Weighted
	users int
}

func (k *keyedSlots) acquire(ctx context.Context, name string, size int64) (release func(), err error) {
	k.mu.Lock()
	if k.names == nil {
		k.names = map[string]*slot{}
	}
	s := k.names[name]
	if s == nil {
		s = &slot{sem: semaphore.NewWeighted(size)}
		k.names[name] = s
	}
	s.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(k.names, name)
		}
	}
	if err := s.sem.Acquire(ctx, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { s.sem.Release(1); leave() }, nil
}

// exclusive waits until no other writing call runs.
func (d *Driver) exclusive(ctx context.Context) (release func(), err error) {
	if err := d.writes.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { d.writes.Release(1) }, nil
}

// slowWrite is exclusive for calls that may take long, start and stop: they
// keep others out only where the release's database needs it.
func (d *Driver) slowWrite(ctx context.Context, c capabilities) (release func(), err error) {
	if c.lockedDB {
		return d.exclusive(ctx)
	}
	return func() {}, nil
}

// jitter is d give or take a quarter, so that two who wait do not meet again.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
