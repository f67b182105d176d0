// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"runtime/debug"
	"testing"
)

func TestLimitGarbage(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	for env, want := range map[string]int{"": gcPercent, "80": 100} {
		t.Setenv("GOGC", env)
		limitGarbage()
		if got := debug.SetGCPercent(100); got != want {
			t.Errorf("with GOGC=%q: got %d, want %d", env, got, want)
		}
	}
}
