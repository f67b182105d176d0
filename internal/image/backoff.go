// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// The backoff between failed pulls is the same as a kubelet's.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 5 * time.Minute
	// failureKept is how long after the end of its backoff a failure still
	// makes the next backoff longer.
	failureKept = 2 * lastBackoff
)

// failure describes how the last attempt of a job ended.
type failure struct {
	err   error
	count int
	at    time.Time
	until time.Time
	file  fileID // the file that could not be used; zero if the source is not a file
	// reports counts by UID how often the failure was reported.
	reports map[string]int
}

// untilFor returns the end of the backoff. If the local file has changed since
// the failure, that is the end of the first backoff.
func (f *failure) untilFor(req request) time.Time {
	if first := f.at.Add(firstBackoff); f.file != req.file && first.Before(f.until) {
		return first
	}
	return f.until
}

// backoffError returns the error for a request during the backoff. The caller
// holds the lock.
func (s *ledger) backoffError(f *failure, req request) error {
	reports := f.reports[req.uid]
	f.reports[req.uid]++
	if reports == 1 && req.uid != "" {
		s.o.Event(req.uid, ReasonBackOff, fmt.Sprintf("Back-off pulling %s %q", req.form.noun(), req.given))
	}
	return &host.PullFailed{Err: f.err, Until: f.untilFor(req), BackOff: reports > 0}
}
