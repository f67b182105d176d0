// SPDX-License-Identifier: Apache-2.0

// Package await lets a test wait for what happens in the background, and that no channel
// reports.
package await

import (
	"testing"
	"time"
)

const (
	// limit is how long a test waits. It ends early only if something is wrong, so it is long
	// enough for a busy machine.
	limit    = 2 * time.Minute
	interval = 5 * time.Millisecond
)

// True waits until ok returns true, and otherwise ends the test. what says what is awaited.
func True(t testing.TB, what string, ok func() bool) {
	t.Helper()
	late, again := time.NewTimer(limit), time.NewTicker(interval)
	defer late.Stop()
	defer again.Stop()
	for !ok() {
		select {
		case <-late.C:
			t.Fatalf("%s: it did not happen within %s", what, limit)
		case <-again.C:
		}
	}
}
