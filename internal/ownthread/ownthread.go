// SPDX-License-Identifier: Apache-2.0

// Package ownthread runs a function on a thread that dies with it, so that
// what it does to its thread (entering a network namespace above all) touches
// no other goroutine, ever. It knows no namespaces.
package ownthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread of its own and returns what it returns. A process
// that f starts has what the thread has.
//
// The main thread will not do: it cannot die, and /proc/PID/ns is its own.
// Whoever is given it holds it while f runs on another.
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
		done <- f() // and never unlocked
	}()
	return <-done
}
