// SPDX-License-Identifier: Apache-2.0

// Package hosttest has stateful in-memory fakes of the ports in internal/host,
// for tests of code that uses these ports. A fake fulfils the contract that
// hostcontract checks, records every call, and fails when a test injects a fault.
// It changes nothing on the machine that it runs on, and does not imitate timing.
package hosttest

import (
	"context"
	"strings"
	"sync"
)

// When says at which point of its effect a call fails.
type When int

const (
	// Before fails the call without its effect.
	Before When = iota
	// After fails the call after its effect: the reply is lost.
	After
	// Half fails the call in the middle of its effect. It leaves the state that
	// the real adapter would leave if it crashed there. Only the calls for which
	// Halves returns true can fail in this way.
	Half
)

// halves has the calls that can fail half way.
var halves = map[string]bool{
	"EnsureNetwork": true, "EnsureBundle": true, "EnsureWall": true, "DeleteWall": true,
	"CreateMachine": true, "StartMachine": true, "DeleteMachine": true, "Get": true,
}

// CanFailHalfWay reports whether a method can fail half way. A method with only one step
// cannot.
func CanFailHalfWay(method string) bool { return halves[method] }

// Always, as a number of times, means every time.
const Always = -1

type fault struct {
	call  string
	when  When
	times int
	err   error
}

// Faults records calls and makes them fail as a test wants. The zero value makes
// no call fail. Several fakes may share one Faults, which then records the order
// of calls across them.
type Faults struct {
	mu     sync.Mutex
	calls  []string
	faults []*fault
}

// Fail makes the next times calls fail with err, before, after or half way
// through their effect. The name of a call is its method ("EnsureBundle"), or its
// method and subject as recorded ("EnsureBundle bottle-demo-1a2b3c4d"). Faults
// for one call are used up in the order in which they were added.
func (f *Faults) Fail(call string, when When, times int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault{call: call, when: when, times: times, err: err})
}

// Heal removes all remaining faults.
func (f *Faults) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Calls returns the calls so far, in order. Each is the method and, if the call
// has a subject, a space and the subject.
func (f *Faults) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// ResetCalls removes all recorded calls.
func (f *Faults) ResetCalls() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = nil
}

// around records the call and runs its effect, unless a fault makes it fail
// before. An error of the effect takes precedence over a fault After.
func (f *Faults) around(call string, effect func() error) error {
	return f.aroundSteps(call, steps{whole: effect})
}

// Around records a call of a fake that a test adds to those of this package, and runs its
// effect, unless a fault makes it fail.
func (f *Faults) Around(call string, effect func() error) error { return f.around(call, effect) }

// steps is the effect of a call: the whole effect, and the effect of a call that
// fails half way. half is nil if the call cannot fail half way.
type steps struct{ whole, half func() error }

// under returns steps that run with mu locked, and fail if ctx has ended.
func (s steps) under(ctx context.Context, mu sync.Locker) steps {
	locked := func(effect func() error) func() error {
		if effect == nil {
			return nil
		}
		return func() error {
			mu.Lock()
			defer mu.Unlock()
			if err := ctx.Err(); err != nil {
				return err
			}
			return effect()
		}
	}
	return steps{whole: locked(s.whole), half: locked(s.half)}
}

// aroundSteps does the same as around for a call that can also fail half way.
func (f *Faults) aroundSteps(call string, s steps) error {
	injected := f.take(call)
	effect := s.whole
	switch {
	case injected == nil:
		return effect()
	case injected.when == Before:
		return injected.err
	case injected.when == Half:
		if s.half == nil {
			panic("hosttest: " + call + " cannot fail half way")
		}
		effect = s.half
	}
	if err := effect(); err != nil {
		return err
	}
	return injected.err
}

// take records the call, and uses up and returns one of its faults, or nil.
func (f *Faults) take(call string) *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	method, _, _ := strings.Cut(call, " ")
	for _, ft := range f.faults {
		if ft.times == 0 || (ft.call != call && ft.call != method) {
			continue
		}
		if ft.times > 0 {
			ft.times--
		}
		return ft
	}
	return nil
}
