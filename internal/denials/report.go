// SPDX-License-Identifier: Apache-2.0

package denials

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// TellAgain is how long a refusal is not reported again. Events last about as long.
	TellAgain = time.Hour
	// maxPending is how many refusals wait to be reported, and maxTold how many are
	// remembered as reported.
	maxPending = egress.MaxDenials
	maxTold    = 4 * egress.MaxDenials
	// maxReport is the most characters of one report. An Event holds 1024.
	maxReport = 900
)

// report collects refusals of one verdict until they are reported. The zero value has
// none.
type report struct {
	pending []egress.Refusal
	more    int // that there was no room for
	told    []told
}

type told struct {
	refusal egress.Refusal
	at      time.Time
}

// add adds a refusal, unless it waits or was reported not long ago. One without a host is
// left out: there is nothing to do about it.
func (r *report) add(refusal egress.Refusal, now time.Time) {
	r.told = slices.DeleteFunc(r.told, func(t told) bool { return now.Sub(t.at) >= TellAgain })
	switch {
	case refusal.Host == "", slices.Contains(r.pending, refusal),
		slices.ContainsFunc(r.told, func(t told) bool { return t.refusal == refusal }):
	case len(r.pending) == maxPending:
		r.more++
	default:
		r.pending = append(r.pending, refusal)
	}
}

// take returns what was collected, as printable ASCII of at most maxReport characters; ""
// if there is nothing. What does not fit is counted, and is not remembered as reported.
func (r *report) take(now time.Time) string {
	var text strings.Builder
	for i, refusal := range r.pending {
		one := refusal.String()
		if text.Len() > 0 {
			one = ". " + one
		}
		if text.Len()+len(one) > maxReport {
			r.more += len(r.pending) - i
			break
		}
		text.WriteString(one)
		r.told = append(r.told, told{refusal, now})
	}
	if r.more > 0 {
		fmt.Fprintf(&text, ". And %d more", r.more)
	}
	r.told = slices.Clone(r.told[max(0, len(r.told)-maxTold):])
	r.pending, r.more = nil, 0
	return text.String()
}
