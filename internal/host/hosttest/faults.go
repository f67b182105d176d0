// SPDX-License-Identifier: Apache-2.0

// Package hosttest has stateful in-memory fakes of the ports in internal/host,
// for tests of what stands on them. A fake keeps the contract that hostcontract
// checks, records every call, and fails when told to. It touches nothing of the
// machine that it runs on and imitates no timing.
package hosttest

import (
	"context"
	"strings"
	"sync"
)

// When is where in its effect a call fails.
type When int

const (
	// Before fails the call without its effect.
	Before When = iota
	// After fails the call once its effect is done: the reply is lost.
	After
	// Half fails the call in the middle of its effect, as the real thing would
	// leave it if it died there. Only the calls that Halves reports can.
	Half
)

// halves are the calls that can fail half way.
var halves = map[string]bool{
	"EnsureNetwork": true, "EnsureBundle": true, "EnsureWall": true, "DeleteWall": true,
	"CreateMachine": true, "StartMachine": true, "DeleteMachine": true, "Get": true,
}

// Halves reports whether a method can fail Half way: those of one step cannot.
func Halves(method string) bool { return halves[method] }

// Always is a number of times that never runs out.
const Always = -1

type fault struct {
	call  string
	when  When
	times int
	err   error
}

// Faults records calls and fails them as told. The zero value fails nothing.
// Several fakes may share one, so that the order of calls across them shows.
type Faults struct {
	mu     sync.Mutex
	calls  []string
	faults []*fault
}

// Fail makes the next times calls fail with err, before, after or half way
// through their effect.
// A call is named by its method ("EnsureBundle") or with its subject as it is
// recorded ("EnsureBundle bottle-demo-1a2b3c4d"). Faults for one call are used
// up in the order in which they were added.
func (f *Faults) Fail(call string, when When, times int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault{call: call, when: when, times: times, err: err})
}

// Heal forgets the faults that are left.
func (f *Faults) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// Calls returns what was called so far, in order: the method and, where it has
// one, its subject after a space.
func (f *Faults) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// ResetCalls forgets the calls recorded so far.
func (f *Faults) ResetCalls() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = nil
}

// around records the call and runs its effect, unless a fault makes it fail
// before that. An effect's own error takes precedence over a fault after it.
func (f *Faults) around(call string, effect func() error) error {
	return f.aroundSteps(call, steps{whole: effect})
}

// steps is the effect of a call: the whole of it, and what is there when it
// fails half way. A nil half is a call that has no half way.
type steps struct{ whole, half func() error }

// under is the steps with a lock held, and refused once ctx has ended.
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

// aroundSteps is around for a call that can also fail half way.
func (f *Faults) aroundSteps(call string, s steps) error {
	hit := f.take(call)
	effect := s.whole
	switch {
	case hit == nil:
		return effect()
	case hit.when == Before:
		return hit.err
	case hit.when == Half:
		if s.half == nil {
			panic("hosttest: " + call + " cannot fail half way")
		}
		effect = s.half
	}
	if err := effect(); err != nil {
		return err
	}
	return hit.err
}

// take records the call and uses up one of its faults.
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
