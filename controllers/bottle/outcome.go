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

// ofDocker is the meaning of docker's errors, with the word for a conflict.
func (r *Reconciler) ofDocker(ctx context.Context, conflict string) meaning {
	return meaning{
		unavailable: v1alpha1.ReasonDockerUnavailable,
		fact:        func() *host.Fact { return failing(r.Facts.Get(ctx), forDocker) },
		conflict:    conflict,
	}
}

// ofSmolvm is the meaning of smolvm's errors.
func (r *Reconciler) ofSmolvm(ctx context.Context) meaning {
	return meaning{
		unavailable: v1alpha1.ReasonNodeNotReady,
		fact:        func() *host.Fact { return failing(r.Facts.Get(ctx), forMachines) },
		conflict:    v1alpha1.ReasonMachineConflict,
		unsupported: v1alpha1.ReasonUnsupportedBySmolvm,
		invalid:     v1alpha1.ReasonMachineRejected,
	}
}
