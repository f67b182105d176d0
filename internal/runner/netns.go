// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// startIn calls start, which forks, on a thread that is in the network
// namespace of the file; "" is the one that this process is in. A thread that
// went there ends with its goroutine: none in a wrong namespace is used again,
// and Go makes no new one from it.
func startIn(netns string, start func() error) error {
	if netns == "" {
		return start()
	}
	f, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNetNS, err)
	}
	defer f.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and it is what /proc shows of this
			// process. As long as it is held here the other is another.
			defer runtime.UnlockOSThread()
			inner := make(chan error)
			go enter(f, start, inner)
			done <- <-inner
			return
		}
		enter(f, start, done)
	}()
	return <-done
}

// enter never unlocks its thread.
func enter(f *os.File, start func() error, done chan<- error) {
	runtime.LockOSThread()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		done <- fmt.Errorf("%w: %s: %w", ErrNetNS, f.Name(), err)
		return
	}
	done <- start()
}
