// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

// now returns the percentage that applies.
func now() int { return int(read("/gc/gogc:percent")) }

// The heap has more room while much is moved, and its usual room soon after that.
func TestRoom(t *testing.T) {
	before := debug.SetGCPercent(50)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "")
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		Moved(step-1, 1000)
		if got := now(); got != 50 {
			t.Errorf("after little: got %d, want 50", got)
		}
		for range 3 { // much, for longer than busyFor
			Moved(step+1, 1000)
			if got := now(); got <= 50 || got > mostPercent {
				t.Errorf("while much is moved: got %d, want more than 50 and at most %d", got, mostPercent)
			}
			time.Sleep(busyFor - 1)
			synctest.Wait()
		}
		time.Sleep(2 * busyFor)
		synctest.Wait()
		if got := now(); got != 50 {
			t.Errorf("afterwards: got %d, want 50", got)
		}
	})
}

// Whoever sets GOGC decides.
func TestEnvironmentDecides(t *testing.T) {
	before := debug.SetGCPercent(80)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "80")
	Moved(step, 1000)
	if got := now(); got != 80 {
		t.Errorf("got %d, want 80", got)
	}
}

// However large the heap is, the room is bounded.
func TestBound(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: mostPercent, 1 << 20: mostPercent, 32 << 20: 200, 256 << 20: 25} {
		if got := percent(live); got != want {
			t.Errorf("with %d bytes in use: got %d, want %d", live, got, want)
		}
	}
}
