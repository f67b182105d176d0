// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"time"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// nextPause returns the pause after a run of this length. last is the pause before
// that run, 0 if there was none.
func nextPause(last, ran time.Duration) time.Duration {
	if last == 0 || ran >= supervise.ResetAfter {
		return supervise.FirstPause
	}
	return min(2*last, supervise.MaxPause)
}

// startAgain reports whether the policy wants a new run after one that ended like
// this.
func startAgain(policy string, failed bool) bool {
	switch policy {
	case supervise.RestartNever:
		return false
	case supervise.RestartOnFailure:
		return failed
	}
	return true
}
