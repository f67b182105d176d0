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

// recent records the hits that were reported within about the last second. If it
// is full, it forgets all of them: a flood from many addresses is then reported
// more often, but hides no hit.
type recent map[seen]time.Time

type seen struct {
	proto         string
	local, remote netip.Addr
	ifindex       int
	nonce         string
}

// add records t, and reports whether it is new.
func (r recent) add(t host.CanaryHit, ifindex int) bool {
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
