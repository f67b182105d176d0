// SPDX-License-Identifier: Apache-2.0

// Package keyed provides locks by name, for any number of names: a name that
// nobody uses takes no memory. Callers get a lock in the order in which they wait
// for it. The package does not detect a caller that waits for itself.
package keyed

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Locks holds a semaphore for each name in use. The zero value is ready for use;
// its semaphores are mutexes.
type Locks struct {
	// Size is how many callers may hold one name at a time; 0 means 1. Set it
	// before use.
	Size int64

	mu    sync.Mutex
	names map[string]*lock
}

type lock struct {
	sem   *semaphore.Weighted
	users int
}

// Acquire locks all names. It returns ctx's error if ctx ends first. It locks the
// names in sorted order, so that no two callers wait for each other. If Acquire
// succeeds, the caller must call release once.
func (l *Locks) Acquire(ctx context.Context, names ...string) (release func(), err error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	held := make([]func(), 0, len(names))
	release = func() {
		for _, r := range slices.Backward(held) {
			r()
		}
	}
	for _, name := range names {
		one, err := l.acquire(ctx, name)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, one)
	}
	return release, nil
}

// Lock is like Acquire, but waits indefinitely.
func (l *Locks) Lock(names ...string) (unlock func()) {
	unlock, _ = l.Acquire(context.Background(), names...) // fails only if its context ends
	return unlock
}

func (l *Locks) acquire(ctx context.Context, name string) (release func(), err error) {
	l.mu.Lock()
	if l.names == nil {
		l.names = map[string]*lock{}
	}
	one := l.names[name]
	if one == nil {
		one = &lock{sem: semaphore.NewWeighted(max(1, l.Size))}
		l.names[name] = one
	}
	one.users++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.names, name)
		}
	}
	if err := one.sem.Acquire(ctx, 1); err != nil {
		leave()
		return nil, err
	}
	return func() { one.sem.Release(1); leave() }, nil
}
