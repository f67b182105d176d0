// SPDX-License-Identifier: Apache-2.0

// Package backoff computes pauses between attempts. It does not wait and keeps
// no count, so that a count that was stored gives the same pause after a
// restart.
package backoff

import "time"

// After is the pause after so many failures in a row: first after one, doubled
// with each further one, longest at most.
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
