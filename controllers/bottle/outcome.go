// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// How long to wait for changes that cause no event.
const (
	soon          = 2 * time.Second
	nodeDelay     = 10 * time.Second
	externalDelay = 30 * time.Second // someone else's object, a missing file
	immediately   = time.Millisecond
)

// errorReasons gives a condition reason for each error kind of the ports. An
// empty reason means that the step does not expect this kind.
type errorReasons struct {
	unavailable string
	stuck       string
	// fact returns the fact that explains why something is unavailable, or
	// nil. It is called only for that error, so that success never waits for
	// an inspection of the node.
	fact        func() *host.Fact
	conflict    string
	notFound    string
	unsupported string
	invalid     string
}

// mapError turns an error of a port into the outcome of the step. An error of
// a kind without a reason is returned unchanged, and retried with backoff.
func mapError(err error, m errorReasons) error {
	waiting := func(reason string, after time.Duration) error {
		return &flow.Waiting{Reason: reason, Message: err.Error(), After: after}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, host.ErrUnavailable) && m.unavailable != "":
		if m.fact != nil {
			if f := m.fact(); f != nil {
				return &flow.Waiting{Reason: m.unavailable, Message: f.Message, After: nodeDelay}
			}
		}
		return waiting(m.unavailable, nodeDelay)
	case errors.Is(err, host.ErrStuck) && m.stuck != "":
		return waiting(m.stuck, nodeDelay)
	case errors.Is(err, host.ErrConflict) && m.conflict != "":
		return waiting(m.conflict, externalDelay)
	case errors.Is(err, host.ErrNotFound) && m.notFound != "":
		return waiting(m.notFound, externalDelay)
	case errors.Is(err, host.ErrUnsupported) && m.unsupported != "":
		return waiting(m.unsupported, externalDelay)
	case errors.Is(err, host.ErrDiskTooSmall):
		return &flow.Terminal{Reason: v1alpha1.ReasonStorageTooSmall, Err: err}
	case errors.Is(err, host.ErrInvalid) && m.invalid != "":
		return &flow.Terminal{Reason: m.invalid, Err: err}
	}
	return err
}

// causes returns the reasons for errors of docker and smolvm, with the facts
// about the node that explain them.
type causes struct {
	facts Facts
}

// docker returns the reasons for docker's errors. conflict is the reason for
// ErrConflict.
func (c causes) docker(ctx context.Context, conflict string) errorReasons {
	return errorReasons{
		unavailable: v1alpha1.ReasonDockerUnavailable,
		stuck:       v1alpha1.ReasonDockerStuck,
		fact:        func() *host.Fact { return failing(c.facts.Get(ctx), isDockerFact) },
		conflict:    conflict,
	}
}

// smolvm returns the reasons for smolvm's errors.
func (c causes) smolvm(ctx context.Context) errorReasons {
	return errorReasons{
		unavailable: v1alpha1.ReasonNodeNotReady,
		fact:        func() *host.Fact { return c.machineProblem(ctx) },
		conflict:    v1alpha1.ReasonMachineConflict,
		unsupported: v1alpha1.ReasonUnsupportedBySmolvm,
		invalid:     v1alpha1.ReasonMachineRejected,
	}
}

// machineProblem returns a fact that keeps machines from running, or nil.
func (c causes) machineProblem(ctx context.Context) *host.Fact {
	return failing(c.facts.Get(ctx), isMachineFact)
}

// requireGone returns nil if the inspection after a deletion found nothing of ours.
func requireGone(inspectErr error, reasons errorReasons, what string) error {
	switch {
	case inspectErr == nil:
		return &flow.Waiting{Reason: v1alpha1.ReasonTerminating, Message: what + " is being removed", After: soon}
	case errors.Is(inspectErr, host.ErrNotFound), errors.Is(inspectErr, host.ErrConflict):
		return nil
	}
	return mapError(inspectErr, reasons)
}
