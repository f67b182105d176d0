// SPDX-License-Identifier: Apache-2.0

package supervisor

import "time"

// Clock is the time. Tests replace it.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type realClock struct{}

func (realClock) Now() time.Time                         { return time.Now() }
func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
