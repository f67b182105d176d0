// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"errors"
	"fmt"
	"time"
)

// Kind is what became of a step, or of a whole pass.
type Kind int

// The kinds, in the order in which they weigh when several errors are joined:
// the later one wins, because what may mend itself is tried again before
// anybody is told that it never will.
const (
	// KindDone: satisfied.
	KindDone Kind = iota
	// KindBlocked: not entered, an earlier step is not done.
	KindBlocked
	// KindTerminal: the user must change something; not retried.
	KindTerminal
	// KindWait: under way or short of a resource; looked at again, no backoff.
	KindWait
	// KindRetry: could not find out; retried with exponential backoff.
	KindRetry
)

// String is the kind in lower case, for logs and failure texts.
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

// Outcome is an error taken apart: what to write and when to come back.
type Outcome struct {
	Kind Kind
	// Reason is set for waits and terminal errors only; what the other kinds
	// are called in a condition is the caller's choice.
	Reason string
	// Message is the whole error text, with what wrapped it; "" when done.
	Message string
	// After is set for waits only.
	After time.Duration
}

// Classify is the kind of OutcomeOf(err).
func Classify(err error) Kind { return OutcomeOf(err).Kind }

// OutcomeOf takes err apart. Within one chain the outermost *Waiting,
// *Terminal or *Blocked decides; an error with none of them is a KindRetry. Among
// joined errors the heaviest kind decides (see Kind), the first among equals,
// and of joined waits the soonest.
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
		return heaviest(e.Unwrap())
	}
	if errors.Is(err, ErrBlocked) {
		return Outcome{Kind: KindBlocked}
	}
	return Outcome{Kind: KindRetry}
}

func heaviest(errs []error) Outcome {
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
