// SPDX-License-Identifier: Apache-2.0

// Package flow runs an ordered list of small steps until one of them is not
// done, and reports the outcome of each in one vocabulary. It knows no domain:
// it holds no conditions, talks to no API, keeps no state between passes,
// starts no goroutine and retries nothing. What a kind of outcome leads to
// (a condition, a requeue, a backoff) is the caller's business.
package flow

import (
	"context"
	"errors"
	"time"
)

// Step is one idempotent part of a pass. Do observes before it acts, does at most
// one thing, and may be entered again after the process died on any line.
type Step[S any] struct {
	// Name is unique within its list; it appears in Blocked and in logs.
	Name string
	// Condition is the type of condition that reports the step; "" for none.
	Condition string
	// Do returns nil if the step is done, *Waiting if it is under way,
	// *Terminal if the user must change something, and any other error if it
	// could not find out.
	Do func(context.Context, S) error
}

// Run runs steps in order. The first that is not done ends the pass, and its
// error is returned unchanged; nil means that all are done. record is called
// exactly once per step, in order: with the step's result, and with *Blocked
// for those after the one that ended the pass. record may be nil.
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
		for _, later := range steps[i+1:] {
			record(later, &Blocked{By: step.Name})
		}
		return err
	}
	return nil
}

// Waiting means that a step is under way or lacks a resource, and that it may
// succeed later without a change by the user.
type Waiting struct {
	// Reason is a condition reason (CamelCase).
	Reason string
	// Message is stable between passes: no times, counters or pids.
	Message string
	// After is when to try again; 0 means that an event ends the wait.
	After time.Duration
}

// Error returns the message, or the reason if there is none.
func (w *Waiting) Error() string {
	if w.Message == "" {
		return w.Reason
	}
	return w.Message
}

// Terminal means that the step cannot succeed without a change by the user.
type Terminal struct {
	// Reason is a condition reason (CamelCase).
	Reason string
	// Err says what is wrong and what to do next.
	Err error
}

// Error returns the text of the cause, or the reason if there is none.
func (t *Terminal) Error() string {
	if t.Err == nil {
		return t.Reason
	}
	return t.Err.Error()
}

// Unwrap returns the cause.
func (t *Terminal) Unwrap() error { return t.Err }

// ErrBlocked matches every *Blocked in errors.Is.
var ErrBlocked = errors.New("an earlier step is not done")

// Blocked is recorded for a step that was not entered because an earlier one
// ended the pass. Run never returns it.
type Blocked struct {
	// By is the name of the step that ended the pass.
	By string
}

// Error names the step that must be done first.
func (b *Blocked) Error() string { return "waits for step " + b.By }

// Is makes errors.Is(err, ErrBlocked) true.
func (b *Blocked) Is(target error) bool { return target == ErrBlocked }
