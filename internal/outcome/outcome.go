// SPDX-License-Identifier: Apache-2.0

// Package outcome turns errors of the ports in internal/host into the outcomes of steps,
// with the reasons of their conditions. It does no I/O but to look up the facts about
// the node that explain an error.
package outcome

import (
	"context"
	"errors"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// How long to wait for changes that cause no event.
const (
	soon          = 2 * time.Second
	nodeDelay     = 10 * time.Second
	externalDelay = 30 * time.Second // someone else's object
)

// Reasons gives a condition reason for each error kind of the ports. An
// empty reason means that the step does not expect this kind.
type Reasons struct {
	Unavailable string
	Stuck       string
	// Fact returns the fact that explains why something is unavailable, or
	// nil. It is called only for that error, so that success never waits for
	// an inspection of the node.
	Fact     func() *host.Fact
	Conflict string
	NotFound string
	// Absent, if not empty, replaces the text of an error for which NotFound is the reason.
	Absent      string
	Unsupported string
	Invalid     string
}

// Map turns an error of a port into the outcome of the step. An error of
// a kind without a reason is returned unchanged, and retried with backoff. So is
// ErrRestarting, whatever the reasons: no condition reports a restart.
func Map(err error, m Reasons) error {
	waiting := func(reason string, after time.Duration) error {
		return &flow.Waiting{Reason: reason, Message: err.Error(), After: after}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, host.ErrRestarting):
		return err
	case errors.Is(err, host.ErrUnavailable) && m.Unavailable != "":
		if m.Fact != nil {
			if f := m.Fact(); f != nil {
				return &flow.Waiting{Reason: m.Unavailable, Message: f.Message, After: nodeDelay}
			}
		}
		return waiting(m.Unavailable, nodeDelay)
	case errors.Is(err, host.ErrStuck) && m.Stuck != "":
		return waiting(m.Stuck, nodeDelay)
	case errors.Is(err, host.ErrConflict) && m.Conflict != "":
		return waiting(m.Conflict, externalDelay)
	case errors.Is(err, host.ErrNotFound) && m.NotFound != "" && m.Absent != "":
		return &flow.Waiting{Reason: m.NotFound, Message: m.Absent, After: externalDelay}
	case errors.Is(err, host.ErrNotFound) && m.NotFound != "":
		return waiting(m.NotFound, externalDelay)
	case errors.Is(err, host.ErrUnsupported) && m.Unsupported != "":
		return waiting(m.Unsupported, externalDelay)
	case errors.Is(err, host.ErrDiskTooSmall):
		return &flow.Terminal{Reason: v1alpha1.ReasonStorageTooSmall, Err: err}
	case errors.Is(err, host.ErrInvalid) && m.Invalid != "":
		return &flow.Terminal{Reason: m.Invalid, Err: err}
	}
	return err
}

// Causes returns the reasons for errors of docker and smolvm, with the facts
// about the node that explain them.
type Causes struct {
	Facts Facts
}

// Docker returns the reasons for docker's errors. conflict is the reason for
// ErrConflict.
func (c Causes) Docker(ctx context.Context, conflict string) Reasons {
	return Reasons{
		Unavailable: v1alpha1.ReasonDockerUnavailable,
		Stuck:       v1alpha1.ReasonDockerStuck,
		Fact:        func() *host.Fact { return failing(c.Facts.Get(ctx), isDockerFact) },
		Conflict:    conflict,
	}
}

// Bundle returns the reasons for errors of what runs the bundle of a Bottle. conflict is
// the reason for ErrConflict.
func (c Causes) Bundle(ctx context.Context, kind bundleruntime.Kind, owner host.Owner, conflict string) Reasons {
	if kind != bundleruntime.Pod {
		return c.Docker(ctx, conflict)
	}
	return Reasons{
		Unavailable: v1alpha1.ReasonContainerRuntimeUnavailable,
		Fact:        func() *host.Fact { return failing(c.Facts.Get(ctx), isRuntimeFact) },
		Conflict:    conflict,
		NotFound:    v1alpha1.ReasonPodStarting,
		Absent:      "the kubelet has not started the Bottle's Pod on this node: see " + kind.Describe(owner),
	}
}

// Smolvm returns the reasons for smolvm's errors.
func (c Causes) Smolvm(ctx context.Context) Reasons {
	return Reasons{
		Unavailable: v1alpha1.ReasonNodeNotReady,
		Fact:        func() *host.Fact { return c.MachineProblem(ctx) },
		Conflict:    v1alpha1.ReasonMachineConflict,
		Unsupported: v1alpha1.ReasonUnsupportedBySmolvm,
		Invalid:     v1alpha1.ReasonMachineRejected,
	}
}

// MachineProblem returns a fact that keeps machines from running, or nil.
func (c Causes) MachineProblem(ctx context.Context) *host.Fact {
	return failing(c.Facts.Get(ctx), isMachineFact)
}

// RequireGone returns nil if the inspection after a deletion found nothing of ours.
func RequireGone(inspectErr error, reasons Reasons, what string) error {
	switch {
	case inspectErr == nil:
		return &flow.Waiting{Reason: v1alpha1.ReasonTerminating, Message: what + " is being removed", After: soon}
	case errors.Is(inspectErr, host.ErrNotFound), errors.Is(inspectErr, host.ErrConflict):
		return nil
	}
	return Map(inspectErr, reasons)
}

// Facts provides the facts about the node.
type Facts interface {
	// Get returns recent facts, from memory if possible; nil if ctx ends first.
	Get(ctx context.Context) []host.Fact
	// OnChange adds a function that is called when a fact has changed.
	OnChange(f func())
}

// The facts that the network and bundle steps depend on. The machine depends on all
// others.
const (
	factDocker  = "docker"
	factRuntime = "container-runtime"
)

// failing returns the first failing fact that concerns the caller, or nil.
func failing(facts []host.Fact, concerns func(name string) bool) *host.Fact {
	for _, f := range facts {
		if !f.OK && concerns(f.Name) {
			return &f
		}
	}
	return nil
}

func isDockerFact(name string) bool  { return name == factDocker }
func isRuntimeFact(name string) bool { return name == factRuntime }
func isMachineFact(name string) bool { return name != factDocker && name != factRuntime }
