// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// imageAsk is what a Bottle asked for last.
type imageAsk struct {
	key     string // the reference and secrets
	waiting string // the reference that is held up
	digest  string // the registry's answer
	handed  time.Time
}

// answerCounts is for how long an answer of the registry counts.
const answerCounts = 2 * time.Minute

// ask notes what the Bottle wants now, and not any more.
func (f *Images) ask(req host.ImageRequest) *imageAsk {
	key := req.Reference + "\n" + req.SHA256 + "\n" + string(bytes.Join(req.PullSecrets, []byte{'\n'}))
	a := f.asks[req.For]
	if a == nil || a.key != key {
		a = &imageAsk{key: key}
		f.asks[req.For] = a
	}
	a.waiting = ""
	return a
}

// Waiting are the UIDs that wait for a held pull of the reference.
func (f *Images) Waiting(reference string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var uids []string
	for _, uid := range slices.Sorted(maps.Keys(f.asks)) {
		if f.asks[uid].waiting == reference {
			uids = append(uids, uid)
		}
	}
	return uids
}

// Forget implements host.Images. It is not recorded: it cannot fail.
func (f *Images) Forget(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.asks, uid)
}

func (f *Images) tellWaiting(reference string) {
	for _, uid := range f.Waiting(reference) {
		f.watchers.tell(uid)
	}
}
