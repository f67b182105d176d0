// SPDX-License-Identifier: Apache-2.0

// Package lifecycle decides what to do about a Bottle's machine, given the
// observed facts. It is pure: it starts and stops nothing.
package lifecycle

import (
	"strings"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/backoff"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// Facts hold everything that the decision depends on.
type Facts struct {
	Machine host.Machine
	// Present: a machine with our name exists. Ours: it belongs to the Bottle.
	Present, Ours bool
	Record        *state.Record
	// Starting: a start is under way.
	Starting bool
	// Unreachable is the number of polls in a row that found the machine
	// unreachable.
	Unreachable int
	// Restart, Recreate: an annotation requests it, and that was not done yet.
	Restart, Recreate bool
	// Differs: the machine was not created from what is requested now.
	Differs bool
	// NodeProblem says why the node cannot start machines; "" if it can.
	NodeProblem string
	Now         time.Time
}

// Action is one thing to do about the machine.
type Action string

// Actions.
const (
	Nothing   Action = "nothing"
	Create    Action = "create"
	Start     Action = "start"
	Stop      Action = "stop"
	Replace   Action = "replace"
	RecordRun Action = "record the run"
)

// Decision is what to do, and what to report.
type Decision struct {
	Action Action
	// Wait is the outcome of the step if Action is Nothing; it is not nil then.
	Wait *flow.Waiting
	// Loss says how the machine ended unexpectedly; "" if it did not.
	Loss string
}

// UnreachableThreshold is how many polls in a row must find a machine
// unreachable before it counts as lost. A single one may be due to a busy node.
const UnreachableThreshold = 3

// Decide returns what to do about a machine that should run.
func Decide(f Facts) Decision {
	wait := func(reason, message string, after time.Duration) Decision {
		return Decision{Action: Nothing, Wait: &flow.Waiting{Reason: reason, Message: message, After: after}}
	}
	switch {
	case f.Present && !f.Ours:
		return wait(v1alpha1.ReasonMachineConflict, "a machine with this Bottle's name belongs to someone else: remove it with smolvm on the node", externalDelay)
	case f.Starting:
		return wait(v1alpha1.ReasonMachineStarting, "the machine is being started", 0)
	case f.Present && f.Recreate:
		if f.NodeProblem != "" {
			return wait(v1alpha1.ReasonNodeNotReady, f.NodeProblem, nodeDelay)
		}
		return Decision{Action: Replace}
	case !f.Present:
		return unlessNodeProblem(f, Decision{Action: Create, Loss: lossOf(f, "smolvm no longer lists it")})
	}
	switch f.Machine.State {
	case host.MachineRunning:
		if f.Restart {
			return Decision{Action: Stop}
		}
		d := Decision{Action: RecordRun}
		if f.Record != nil && f.Record.Run != nil && !SameRun(*f.Record.Run, RunOf(f.Machine)) && f.Machine.PID != 0 {
			d.Loss = "it was stopped and started by someone else"
		}
		return d
	case host.MachineUnreachable:
		if f.Unreachable < UnreachableThreshold {
			return wait(v1alpha1.ReasonMachineUnreachable, "the machine's VM is alive but does not answer; it is restarted if this continues", soon)
		}
		return Decision{Action: Stop, Loss: lossOf(f, "it stopped answering")}
	case host.MachineCreated, host.MachineStopped, host.MachineFailed:
		return decideDown(f)
	}
	return wait(v1alpha1.ReasonMachineUnreachable, "smolvm reports the machine as "+string(f.Machine.State)+": resume it with smolvm on the node, or request a restart by annotation", nodeDelay)
}

// decideDown returns what to do about a machine that exists and is down.
func decideDown(f Facts) Decision {
	d := Decision{Action: Start, Loss: lossOf(f, "its VM ended")}
	if f.Machine.State == host.MachineCreated && f.Differs && f.Record != nil && f.Record.FirstRun.IsZero() {
		// It was created ahead of its bundle, and no machine of the Bottle ever ran: no
		// data is lost.
		d.Action = Replace
	}
	if f.Record == nil || f.Record.BootFailures == 0 || f.Restart {
		return unlessNodeProblem(f, d)
	}
	next := f.Record.LastBootFailure.Add(backoff.After(f.Record.BootFailures, firstPause, longestPause))
	if left := next.Sub(f.Now); left > 0 {
		d.Action = Nothing
		d.Wait = &flow.Waiting{Reason: v1alpha1.ReasonBootFailed, After: left,
			Message: "the machine did not stay up; it is started again with growing pauses: " + f.Record.BootError}
		if f.Record.BootReason == v1alpha1.ReasonWallBroken {
			d.Wait.Reason = v1alpha1.ReasonWallBroken
			d.Wait.Message = "the machine was killed because its wall did not hold; it is started again with growing pauses: " + f.Record.BootError
		}
	}
	if d.Action == Start && f.Machine.State == host.MachineCreated {
		// It never ran, and its creation may be incomplete: no data is lost.
		d.Action = Replace
	}
	return unlessNodeProblem(f, d)
}

// unlessNodeProblem returns d, or a wait if the node cannot carry it out.
func unlessNodeProblem(f Facts, d Decision) Decision {
	if f.NodeProblem == "" || d.Action == Nothing {
		return d
	}
	return Decision{Action: Nothing, Loss: d.Loss,
		Wait: &flow.Waiting{Reason: v1alpha1.ReasonNodeNotReady, Message: f.NodeProblem, After: nodeDelay}}
}

// lossOf returns how a machine that is known to have run ended: smolvm's
// account, or cause if there is none. It returns "" if it did not run.
func lossOf(f Facts, cause string) string {
	if f.Record == nil || f.Record.Run == nil {
		return ""
	}
	if f.Machine.LastExit != "" {
		return Short(f.Machine.LastExit)
	}
	return cause
}

// How long to wait for changes that cause no event.
const (
	soon          = 2 * time.Second
	nodeDelay     = 10 * time.Second
	externalDelay = 30 * time.Second // someone else's object
)

// Pauses between failed boots.
const (
	firstPause   = 5 * time.Second
	longestPause = 5 * time.Minute
)

// Short turns a text from another program into one line, and cuts it to a length
// that fits a condition or a cause.
func Short(text string) string {
	const limit = 250
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "")
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

// RunOf returns the current run of a machine's VMM.
func RunOf(m host.Machine) state.Run {
	return state.Run{PID: m.PID, StartTime: m.StartTime.UTC()}
}

// SameRun reports whether a and b are the same run. The start times may differ
// slightly, because two agents may compute them differently. No PID is reused
// that fast.
func SameRun(a, b state.Run) bool {
	return a.PID == b.PID && a.StartTime.Sub(b.StartTime).Abs() < 2*time.Second
}
