// SPDX-License-Identifier: Apache-2.0

package ownthread_test

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
)

// Run must not use the main thread: it cannot end, and other programs take its
// network namespace for the namespace of the process.
func TestRun(t *testing.T) {
	onMain := 0
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
						onMain++
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
	if onMain > 0 {
		t.Errorf("runs on the main thread: got %d of 4000, want none", onMain)
	}
}
