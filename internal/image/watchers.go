// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"

	"botbottle.dev/bottle-operator/internal/watchers"
)

// requestWatchers are told when the answer to a Bottle's request changes.
type requestWatchers struct{ watchers.Watchers }

// WatchImages implements host.Images.
func (s *requestWatchers) WatchImages(ctx context.Context, changed func(uid string)) error {
	remove := s.Add(changed)
	defer remove()
	changed("")
	<-ctx.Done()
	return ctx.Err()
}

// notify calls every watcher for every Bottle. The caller must not hold a lock.
func (s *requestWatchers) notify(uids []string) {
	for _, uid := range uids {
		s.Notify(uid)
	}
}
