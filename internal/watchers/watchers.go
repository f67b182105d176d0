// SPDX-License-Identifier: Apache-2.0

// Package watchers keeps the callbacks of those who watch a thing, and calls them when it
// changes. It starts no goroutines and remembers no changes.
package watchers

import (
	"maps"
	"slices"
	"sync"
)

// Watchers are the callbacks. The zero value has none. They may be used from many
// goroutines.
type Watchers struct {
	mu   sync.Mutex
	next int
	all  map[int]func(uid string)
}

// Add adds a callback. After remove, no Notify that begins calls it; one that is under way
// may still do so.
func (w *Watchers) Add(changed func(uid string)) (remove func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[int]func(string){}
	}
	key := w.next
	w.next++
	w.all[key] = changed
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, key)
	}
}

// Notify calls every callback with the UID of the owner whose thing changed; "" means all
// owners. Callbacks may call Add, and so the caller must not hold a lock that they need.
func (w *Watchers) Notify(uid string) {
	w.mu.Lock()
	all := slices.Collect(maps.Values(w.all))
	w.mu.Unlock()
	for _, changed := range all {
		changed(uid)
	}
}

// Len returns the number of callbacks.
func (w *Watchers) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}
