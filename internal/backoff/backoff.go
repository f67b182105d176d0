// SPDX-License-Identifier: Apache-2.0

// Package backoff computes pauses between attempts. It does not wait and does not
// count: the caller stores the count, so the pause is the same after a restart.
package backoff

import "time"

// After returns the pause after this many consecutive failures: first after one
// failure, twice as long after each further one, but at most longest.
func After(failures int, first, longest time.Duration) time.Duration {
	pause := first
	for range failures - 1 {
		if pause >= longest {
			break
		}
		pause *= 2
	}
	return min(pause, longest)
}
