// SPDX-License-Identifier: Apache-2.0

package ownthread_test

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
)

// Never the main thread, which cannot die, and whose network namespace the
// rest of the world takes for the process's.
func TestRun(t *testing.T) {
	mains := 0
	failed := errors.New("failed")
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				err := ownthread.Run(func() error {
					mu.Lock()
					defer mu.Unlock()
					if unix.Gettid() == unix.Getpid() {
						mains++
					}
					return failed
				})
				if !errors.Is(err, failed) {
					t.Errorf("got %v, want what the function returned", err)
				}
			}
		})
	}
	all.Wait()
	if mains > 0 {
		t.Errorf("runs on the main thread: got %d of 4000, want none", mains)
	}
}
