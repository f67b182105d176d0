// SPDX-License-Identifier: Apache-2.0

// Package lifecycle decides what is to be done about a Bottle's machine, from
// what was observed of it. It is pure: it starts and stops nothing.
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

// Facts are all that the decision depends on.
type Facts struct {
	Machine host.Machine
	// Present: a machine of our name is there; Ours: it is the Bottle's.
	Present, Ours bool
	Record        *state.Record
	// Starting: a start is under way.
	Starting bool
	// Unreachable counts the polls in a row that found the machine so.
	Unreachable int
	// Restart, Recreate: the annotations ask for it and were not heeded yet.
	Restart, Recreate bool
	// NodeFault says why the node can start nothing; "" when it can.
	NodeFault string
	Now       time.Time
}

// Action is what is to be done.
type Action string

// Actions. Each is one thing to do.
const (
	Nothing   Action = "nothing"
	Create    Action = "create"
	Start     Action = "start"
	Stop      Action = "stop"
	Replace   Action = "replace"
	RecordRun Action = "record the run"
)

// Decision is what is to be done, and how the step stands meanwhile.
type Decision struct {
	Action Action
	// Wait is how the step stands when nothing is to be done; nil never goes
	// with Nothing.
	Wait *flow.Waiting
	// Loss says how a machine ended that was not asked to; "" when none did.
	Loss string
}

// UnreachableReadings is how many polls in a row must find a machine
// unreachable before it is taken for lost: one may be a busy node.
const UnreachableReadings = 3

// Decide returns what to do about a machine that is to run.
func Decide(f Facts) Decision {
	wait := func(reason, message string, after time.Duration) Decision {
		return Decision{Action: Nothing, Wait: &flow.Waiting{Reason: reason, Message: message, After: after}}
	}
	switch {
	case f.Present && !f.Ours:
		return wait(v1alpha1.ReasonMachineConflict, "a machine of this Bottle's name belongs to someone else: remove it with smolvm on the node", forSomebody)
	case f.Starting:
		return wait(v1alpha1.ReasonMachineStarting, "the machine is being started", 0)
	case f.Present && f.Recreate:
		if f.NodeFault != "" {
			return wait(v1alpha1.ReasonNodeNotReady, f.NodeFault, forNode)
		}
		return Decision{Action: Replace}
	case !f.Present:
		return orNodeFault(f, Decision{Action: Create, Loss: lossOf(f, "it is gone from smolvm")})
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
		if f.Unreachable < UnreachableReadings {
			return wait(v1alpha1.ReasonMachineUnreachable, "the machine's VM lives but does not answer; it is restarted if that lasts", soon)
		}
		return Decision{Action: Stop, Loss: lossOf(f, "it did not answer any more")}
	case host.MachineCreated, host.MachineStopped, host.MachineFailed:
		return decideDown(f)
	}
	return wait(v1alpha1.ReasonMachineUnreachable, "smolvm calls the machine "+string(f.Machine.State)+": resume it with smolvm on the node, or ask for a restart by annotation", forNode)
}

// decideDown is what to do about a machine that is there and down.
func decideDown(f Facts) Decision {
	d := Decision{Action: Start, Loss: lossOf(f, "its VM ended")}
	if f.Record == nil || f.Record.BootFailures == 0 || f.Restart {
		return orNodeFault(f, d)
	}
	next := f.Record.LastBootFailure.Add(backoff.After(f.Record.BootFailures, firstPause, longestPause))
	if left := next.Sub(f.Now); left > 0 {
		d.Action = Nothing
		d.Wait = &flow.Waiting{Reason: v1alpha1.ReasonBootFailed, After: left,
			Message: "the machine did not come up to stay, it is tried again with growing pauses: " + f.Record.BootError}
		if f.Record.BootReason == v1alpha1.ReasonWallBroken {
			d.Wait.Reason = v1alpha1.ReasonWallBroken
			d.Wait.Message = "the machine was killed because its wall did not hold, it is started again with growing pauses: " + f.Record.BootError
		}
	}
	if d.Action == Start && f.Machine.State == host.MachineCreated {
		// It never ran, and may have been made half way: nothing is lost with it.
		d.Action = Replace
	}
	return orNodeFault(f, d)
}

func orNodeFault(f Facts, d Decision) Decision {
	if f.NodeFault == "" || d.Action == Nothing {
		return d
	}
	return Decision{Action: Nothing, Loss: d.Loss,
		Wait: &flow.Waiting{Reason: v1alpha1.ReasonNodeNotReady, Message: f.NodeFault, After: forNode}}
}

// lossOf is the loss of a machine that is known to have run; "" otherwise.
func lossOf(f Facts, otherwise string) string {
	if f.Record == nil || f.Record.Run == nil {
		return ""
	}
	if f.Machine.LastExit != "" {
		return Short(f.Machine.LastExit)
	}
	return otherwise
}

// How long to wait for what ends without an event of ours.
const (
	soon        = 2 * time.Second
	forNode     = 10 * time.Second
	forSomebody = 30 * time.Second // a foreign thing
)

// Pauses between failed boots.
const (
	firstPause   = 5 * time.Second
	longestPause = 5 * time.Minute
)

// Short cuts a text of somebody else's to what fits a condition or a cause,
// in one line.
func Short(text string) string {
	const most = 250
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// RunOf returns the life of a machine's VMM.
func RunOf(m host.Machine) state.Run {
	return state.Run{PID: m.PID, StartTime: m.StartTime.UTC()}
}

// SameRun says whether both are the same life. It allows for a start time that two agents work out differently by a
// moment: a PID does not come round again that fast.
func SameRun(a, b state.Run) bool {
	return a.PID == b.PID && a.StartTime.Sub(b.StartTime).Abs() < 2*time.Second
}
