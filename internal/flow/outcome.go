// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"errors"
	"fmt"
	"time"
)

// Kind is the kind of outcome of a step, or of a whole pass.
type Kind int

// The kinds, in ascending order of precedence among joined errors. An error that
// may go away by itself takes precedence, so that it is retried before the user
// is asked to change something.
const (
	// KindDone: done.
	KindDone Kind = iota
	// KindBlocked: not entered, because an earlier step is not done.
	KindBlocked
	// KindTerminal: the user must change something; not retried.
	KindTerminal
	// KindWait: under way, or lacks a resource; tried again without backoff.
	KindWait
	// KindRetry: could not find out; retried with exponential backoff.
	KindRetry
)

// String returns the kind in lower case, for logs and test failures.
func (k Kind) String() string {
	switch k {
	case KindDone:
		return "done"
	case KindBlocked:
		return "blocked"
	case KindTerminal:
		return "terminal"
	case KindWait:
		return "wait"
	case KindRetry:
		return "retry"
	}
	return fmt.Sprintf("kind(%d)", int(k))
}

// Outcome is what an error means for a step: what to report and when to try
// again.
type Outcome struct {
	Kind Kind
	// Reason is set only for waits and terminal errors. The caller chooses the
	// condition reason for the other kinds.
	Reason string
	// Message is the full error text, including wrapping errors; "" if done.
	Message string
	// After is set for waits only.
	After time.Duration
}

// Classify returns the kind of OutcomeOf(err).
func Classify(err error) Kind { return OutcomeOf(err).Kind }

// OutcomeOf returns the outcome that err stands for. Within one chain the
// outermost *Waiting, *Terminal or *Blocked decides; an error without one is a
// KindRetry. Among joined errors the kind with the highest precedence decides
// (see Kind), and the first error among several of that kind. If several waits
// are joined, the outcome has the shortest After.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Outcome{}
	}
	o := classify(err)
	o.Message = err.Error()
	return o
}

func classify(err error) Outcome {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself, in its own order
	case *Waiting:
		return Outcome{Kind: KindWait, Reason: e.Reason, After: e.After}
	case *Terminal:
		return Outcome{Kind: KindTerminal, Reason: e.Reason}
	case *Blocked:
		return Outcome{Kind: KindBlocked}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return classify(inner)
		}
	case interface{ Unwrap() []error }:
		return dominant(e.Unwrap())
	}
	if errors.Is(err, ErrBlocked) {
		return Outcome{Kind: KindBlocked}
	}
	return Outcome{Kind: KindRetry}
}

// dominant returns the outcome that decides among joined errors.
func dominant(errs []error) Outcome {
	var out Outcome
	for _, err := range errs {
		if err == nil {
			continue
		}
		o := classify(err)
		switch {
		case o.Kind > out.Kind:
			out = o
		case o.Kind == KindWait && out.Kind == KindWait && o.After > 0 && (out.After == 0 || o.After < out.After):
			out.After = o.After
		}
	}
	if out.Kind == KindDone {
		return Outcome{Kind: KindRetry}
	}
	return out
}
