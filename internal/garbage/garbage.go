// SPDX-License-Identifier: Apache-2.0

// Package garbage lets the heap hold more garbage while sessions move much data. The
// streams' libraries make at least one byte of garbage for each byte. The heaps of the
// manager and the agent are small, so they would be searched for garbage after every few
// megabytes, which took a third of the processor's time in a transfer.
package garbage

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// step is after how many bytes of a session the heap gets more room, for busyFor. An
	// interactive session moves less in that time.
	step    = 4 << 20
	busyFor = 5 * time.Second
	// most is how much garbage the heap may hold then, in bytes, unless it may hold more
	// anyway.
	most = 64 << 20
	// mostPercent bounds it relative to the memory in use, which may grow meanwhile.
	mostPercent = 400
)

var heap struct {
	mu sync.Mutex
	// until is how long the heap has more room; zero if it has not.
	until time.Time
	// usual is the percentage that applies otherwise.
	usual int
}

// Moved tells that a session has moved n more bytes, and total so far.
func Moved(total int64, n int) {
	if total/step != (total-int64(n))/step && os.Getenv("GOGC") == "" {
		busy()
	}
}

func busy() {
	heap.mu.Lock()
	defer heap.mu.Unlock()
	more := !heap.until.IsZero()
	heap.until = time.Now().Add(busyFor)
	if !more {
		heap.usual = int(read("/gc/gogc:percent")) //nolint:gosec // a percentage
		adjust()
	}
}

// adjust gives the heap the room that it needs now. The caller holds heap.mu.
func adjust() {
	if !time.Now().Before(heap.until) {
		heap.until = time.Time{}
		debug.SetGCPercent(heap.usual)
		return
	}
	debug.SetGCPercent(max(heap.usual, percent(read("/gc/heap/live:bytes"))))
	time.AfterFunc(busyFor, func() {
		heap.mu.Lock()
		defer heap.mu.Unlock()
		adjust()
	})
}

// percent returns how much garbage the heap may hold, in percent of the memory in use.
func percent(live uint64) int {
	return int(min(mostPercent, most*100/max(live, 1))) //nolint:gosec // at most mostPercent
}

// read returns one of the runtime's figures.
func read(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
