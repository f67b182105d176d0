// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"maps"
	"slices"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// imageRequest is the last request of a Bottle.
type imageRequest struct {
	key      string // the reference and secrets
	waiting  string // the reference of the held pull that it waits for
	digest   string // the registry's answer
	returned time.Time
}

// answerLifetime is how long an answer of the registry is good for.
const answerLifetime = 2 * time.Minute

// request records the Bottle's request, in place of an earlier one.
func (f *Images) request(req host.ImageRequest) *imageRequest {
	key := req.Reference + "\n" + req.SHA256
	for _, s := range req.PullSecrets {
		key += "\n" + string(s.Content)
	}
	r := f.requests[req.For]
	if r == nil || r.key != key {
		r = &imageRequest{key: key}
		f.requests[req.For] = r
	}
	r.waiting = ""
	return r
}

// Waiting returns the UIDs of the Bottles that wait for a held pull of the
// reference, sorted.
func (f *Images) Waiting(reference string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var uids []string
	for _, uid := range slices.Sorted(maps.Keys(f.requests)) {
		if f.requests[uid].waiting == reference {
			uids = append(uids, uid)
		}
	}
	return uids
}

// Forget implements host.Images. It is not recorded, because it cannot fail.
func (f *Images) Forget(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.requests, uid)
}

func (f *Images) notifyWaiting(reference string) {
	for _, uid := range f.Waiting(reference) {
		f.watchers.Notify(uid)
	}
}
