// SPDX-License-Identifier: Apache-2.0

// Package flow runs an ordered list of small steps until one of them is not
// done, and says in one vocabulary what became of each. It knows no domain:
// it holds no conditions, talks to no API, keeps no state between passes,
// starts no goroutine and retries nothing. What a kind of outcome leads to
// (a condition, a requeue, a backoff) is the caller's business.
package flow

import (
	"context"
	"errors"
	"time"
)

// Step is one idempotent piece of a pass. Do looks before it acts, does at
// most one thing, and may be entered again after the process died on any line.
type Step[S any] struct {
	// Name is unique within its list; it appears in Blocked and in logs.
	Name string
	// Condition is the condition type that the step answers for; "" is none.
	Condition string
	// Do returns nil when satisfied, *Waiting when under way, *Terminal when
	// the user must change something, and any other error when it could not
	// find out.
	Do func(context.Context, S) error
}

// Run runs steps in order. The first that is not done ends the pass, and its
// error is returned unchanged; nil means that all are done. record is called
// exactly once per step, in order: with the step's result, and with *Blocked
// for those behind the one that ended the pass. A nil record is allowed.
//
// A step is not entered once ctx has ended; its result is then ctx's cause.
func Run[S any](ctx context.Context, s S, steps []Step[S], record func(Step[S], error)) error {
	if record == nil {
		record = func(Step[S], error) {}
	}
	for i, step := range steps {
		err := context.Cause(ctx)
		if err == nil {
			err = step.Do(ctx, s)
		}
		record(step, err)
		if err == nil {
			continue
		}
		for _, behind := range steps[i+1:] {
			record(behind, &Blocked{By: step.Name})
		}
		return err
	}
	return nil
}

// Waiting says that a step is under way, or that a resource is short, and
// that it will mend itself without the user: look again after After.
type Waiting struct {
	// Reason is a condition reason (CamelCase).
	Reason string
	// Message is stable between passes: no times, counters or pids.
	Message string
	// After is when to look again; 0 leaves it to whatever event ends the wait.
	After time.Duration
}

// Error is the message, or the reason where there is none.
func (w *Waiting) Error() string {
	if w.Message == "" {
		return w.Reason
	}
	return w.Message
}

// Terminal says that nothing will get better without a change by the user.
type Terminal struct {
	// Reason is a condition reason (CamelCase).
	Reason string
	// Err says what is wrong and what to do next.
	Err error
}

// Error is the cause's text, or the reason where there is no cause.
func (t *Terminal) Error() string {
	if t.Err == nil {
		return t.Reason
	}
	return t.Err.Error()
}

// Unwrap returns the cause.
func (t *Terminal) Unwrap() error { return t.Err }

// ErrBlocked is what every *Blocked is, in the sense of errors.Is.
var ErrBlocked = errors.New("an earlier step is not done")

// Blocked is recorded for a step that was not entered because an earlier one
// ended the pass. Run never returns it.
type Blocked struct {
	// By is the name of the step that ended the pass.
	By string
}

// Error names the step that has to come first.
func (b *Blocked) Error() string { return "waits for step " + b.By }

// Is makes errors.Is(err, ErrBlocked) true.
func (b *Blocked) Is(target error) bool { return target == ErrBlocked }
