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

// How long to wait for what ends without an event of ours.
const (
	soon        = 2 * time.Second
	forNode     = 10 * time.Second
	forSomebody = 30 * time.Second // a foreign thing, a missing file
	atOnce      = time.Millisecond
)

// meaning is what the error kinds of the ports mean to one step.
type meaning struct {
	unavailable string // reason
	// fact returns the fact that explains it, or nil. It is asked only then:
	// nothing that succeeds waits for a look at the node.
	fact        func() *host.Fact
	conflict    string
	notFound    string
	unsupported string
	invalid     string
}

// mapped turns an error of a port into what becomes of the step. Kinds that
// the step has no word for, and everything else, could not be found out.
func mapped(err error, m meaning) error {
	waiting := func(reason string, after time.Duration) error {
		return &flow.Waiting{Reason: reason, Message: err.Error(), After: after}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, host.ErrUnavailable) && m.unavailable != "":
		if m.fact != nil {
			if f := m.fact(); f != nil {
				return &flow.Waiting{Reason: m.unavailable, Message: f.Message, After: forNode}
			}
		}
		return waiting(m.unavailable, forNode)
	case errors.Is(err, host.ErrConflict) && m.conflict != "":
		return waiting(m.conflict, forSomebody)
	case errors.Is(err, host.ErrNotFound) && m.notFound != "":
		return waiting(m.notFound, forSomebody)
	case errors.Is(err, host.ErrUnsupported) && m.unsupported != "":
		return waiting(m.unsupported, forSomebody)
	case errors.Is(err, host.ErrInvalid) && m.invalid != "":
		return &flow.Terminal{Reason: m.invalid, Err: err}
	}
	return err
}

// causes knows what an error of docker or smolvm means, with the fact of the
// node that explains it.
type causes struct {
	facts Facts
}

// docker returns what docker's errors mean; conflict is the reason for a
// conflict.
func (c causes) docker(ctx context.Context, conflict string) meaning {
	return meaning{
		unavailable: v1alpha1.ReasonDockerUnavailable,
		fact:        func() *host.Fact { return failing(c.facts.Get(ctx), forDocker) },
		conflict:    conflict,
	}
}

// smolvm returns what smolvm's errors mean.
func (c causes) smolvm(ctx context.Context) meaning {
	return meaning{
		unavailable: v1alpha1.ReasonNodeNotReady,
		fact:        func() *host.Fact { return c.machineFault(ctx) },
		conflict:    v1alpha1.ReasonMachineConflict,
		unsupported: v1alpha1.ReasonUnsupportedBySmolvm,
		invalid:     v1alpha1.ReasonMachineRejected,
	}
}

// machineFault returns the fact that keeps the node from running machines, nil
// if there is none.
func (c causes) machineFault(ctx context.Context) *host.Fact {
	return failing(c.facts.Get(ctx), forMachines)
}

// gone returns nil if a look after a deletion found nothing of ours.
func gone(looked error, say meaning, what string) error {
	switch {
	case looked == nil:
		return &flow.Waiting{Reason: v1alpha1.ReasonTerminating, Message: what + " is being removed", After: soon}
	case errors.Is(looked, host.ErrNotFound), errors.Is(looked, host.ErrConflict):
		return nil
	}
	return mapped(looked, say)
}
