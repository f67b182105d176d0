// SPDX-License-Identifier: Apache-2.0

package backoff_test

import (
	"math"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/backoff"
)

func TestAfter(t *testing.T) {
	const first, longest = 10 * time.Second, 5 * time.Minute
	for failures, want := range map[int]time.Duration{
		-1: first, 0: first, 1: first, 2: 2 * first, 3: 4 * first, 5: 16 * first, 6: longest, 7: longest, math.MaxInt: longest,
	} {
		if got := backoff.After(failures, first, longest); got != want {
			t.Errorf("after %d: got %v, want %v", failures, got, want)
		}
	}
	if got := backoff.After(3, time.Minute, time.Second); got != time.Second {
		t.Errorf("first above longest: got %v, want %v", got, time.Second)
	}
}
