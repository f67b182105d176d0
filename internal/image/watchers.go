// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// watchers are those who are told when the answer to a Bottle's request changes.
type watchers struct {
	watchersMu sync.Mutex
	nextID     int
	watchers   map[int]func(uid string)
}

// WatchImages implements host.Images.
func (s *watchers) WatchImages(ctx context.Context, changed func(uid string)) error {
	s.watchersMu.Lock()
	id := s.nextID
	s.nextID++
	s.watchers[id] = changed
	s.watchersMu.Unlock()
	changed("")
	<-ctx.Done()
	s.watchersMu.Lock()
	delete(s.watchers, id)
	s.watchersMu.Unlock()
	return ctx.Err()
}

// notify calls every watcher for every Bottle. The caller must not hold a lock.
func (s *watchers) notify(uids []string) {
	s.watchersMu.Lock()
	watchers := slices.Collect(maps.Values(s.watchers))
	s.watchersMu.Unlock()
	for _, uid := range uids {
		for _, changed := range watchers {
			changed(uid)
		}
	}
}
