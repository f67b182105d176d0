// SPDX-License-Identifier: Apache-2.0

// Package ownthread runs a function on a separate thread, which ends with the
// function. Whatever the function does to its thread, such as entering a network
// namespace, therefore never affects other goroutines. The package itself does
// not deal with namespaces.
package ownthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread of its own and returns f's error. A process that f starts
// inherits the thread's attributes, such as its namespaces.
//
// Run never runs f on the main thread, which cannot end and whose namespaces
// /proc/PID/ns shows. A goroutine that happens to run on the main thread keeps
// that thread locked while f runs on another one.
func Run(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err := Run(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f() // the thread stays locked, so it ends with this goroutine
	}()
	return <-done
}
