// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	repeatAfter = time.Second
	maxRecent   = 1024
)

// recent are touches that were told of within the last second or so. It is
// bounded by forgetting: a flood from many addresses is told of more often,
// but hides nobody.
type recent map[seen]time.Time

type seen struct {
	proto         string
	local, remote netip.Addr
	ifindex       int
	nonce         string
}

// add says whether t is news, and remembers it.
func (r recent) add(t host.Touch, ifindex int) bool {
	key := seen{t.Proto, t.Local.Addr(), t.Remote.Addr(), ifindex, t.Nonce}
	if last, ok := r[key]; ok && t.Time.Sub(last) < repeatAfter && !t.Time.Before(last) {
		return false
	}
	if len(r) >= maxRecent {
		clear(r)
	}
	r[key] = t.Time
	return true
}
