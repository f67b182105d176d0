// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"strings"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/backoff"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// machineFacts are all that is decided by.
type machineFacts struct {
	machine host.Machine
	// present: a machine of our name is there; ours: it is the Bottle's.
	present, ours bool
	record        *state.Record
	// starting: a start is under way.
	starting bool
	// unreachable counts the polls in a row that found the machine so.
	unreachable int
	// restart, recreate: the annotations ask for it and were not heeded yet.
	restart, recreate bool
	// nodeFault says why the node can start nothing; "" when it can.
	nodeFault string
	now       time.Time
}

type action string

const (
	actNothing action = "nothing"
	actCreate  action = "create"
	actStart   action = "start"
	actStop    action = "stop"
	actReplace action = "replace"
	actNote    action = "note that it runs"
)

type decision struct {
	action action
	// wait is how the step stands when nothing is to be done; nil never goes
	// with actNothing.
	wait *flow.Waiting
	// loss says how a machine ended that was not asked to; "" when none did.
	loss string
}

// unreachableReadings is how many polls in a row must find a machine
// unreachable before it is taken for lost: one may be a busy node.
const unreachableReadings = 3

// decide is what to do about a machine that is to run.
func decide(f machineFacts) decision {
	wait := func(reason, message string, after time.Duration) decision {
		return decision{action: actNothing, wait: &flow.Waiting{Reason: reason, Message: message, After: after}}
	}
	switch {
	case f.present && !f.ours:
		return wait(v1alpha1.ReasonMachineConflict, "a machine of this Bottle's name belongs to someone else: remove it with smolvm on the node", forSomebody)
	case f.starting:
		return wait(v1alpha1.ReasonMachineStarting, "the machine is being started", 0)
	case f.present && f.recreate:
		if f.nodeFault != "" {
			return wait(v1alpha1.ReasonNodeNotReady, f.nodeFault, forNode)
		}
		return decision{action: actReplace}
	case !f.present:
		return orNodeFault(f, decision{action: actCreate, loss: lossOf(f, "it is gone from smolvm")})
	}
	switch f.machine.State {
	case host.MachineRunning:
		if f.restart {
			return decision{action: actStop}
		}
		d := decision{action: actNote}
		if f.record != nil && f.record.Run != nil && !sameRun(*f.record.Run, runOf(f.machine)) && f.machine.PID != 0 {
			d.loss = "it was stopped and started by someone else"
		}
		return d
	case host.MachineUnreachable:
		if f.unreachable < unreachableReadings {
			return wait(v1alpha1.ReasonMachineUnreachable, "the machine's VM lives but does not answer; it is restarted if that lasts", soon)
		}
		return decision{action: actStop, loss: lossOf(f, "it did not answer any more")}
	case host.MachineCreated, host.MachineStopped, host.MachineFailed:
		return decideDown(f)
	}
	return wait(v1alpha1.ReasonMachineUnreachable, "smolvm calls the machine "+string(f.machine.State)+": resume it with smolvm on the node, or ask for a restart by annotation", forNode)
}

// decideDown is what to do about a machine that is there and down.
func decideDown(f machineFacts) decision {
	d := decision{action: actStart, loss: lossOf(f, "its VM ended")}
	if f.record == nil || f.record.BootFailures == 0 || f.restart {
		return orNodeFault(f, d)
	}
	next := f.record.LastBootFailure.Add(backoff.After(f.record.BootFailures, firstPause, longestPause))
	if left := next.Sub(f.now); left > 0 {
		d.action = actNothing
		d.wait = &flow.Waiting{Reason: v1alpha1.ReasonBootFailed, After: left,
			Message: "the machine did not come up to stay, it is tried again with growing pauses: " + f.record.BootError}
		if f.record.BootReason == v1alpha1.ReasonWallBroken {
			d.wait.Reason = v1alpha1.ReasonWallBroken
			d.wait.Message = "the machine was killed because its wall did not hold, it is started again with growing pauses: " + f.record.BootError
		}
	}
	return orNodeFault(f, d)
}

func orNodeFault(f machineFacts, d decision) decision {
	if f.nodeFault == "" || d.action == actNothing {
		return d
	}
	return decision{action: actNothing, loss: d.loss,
		wait: &flow.Waiting{Reason: v1alpha1.ReasonNodeNotReady, Message: f.nodeFault, After: forNode}}
}

// lossOf is the loss of a machine that is known to have run; "" otherwise.
func lossOf(f machineFacts, otherwise string) string {
	if f.record == nil || f.record.Run == nil {
		return ""
	}
	if f.machine.LastExit != "" {
		return short(f.machine.LastExit)
	}
	return otherwise
}

// Pauses between failed boots.
const (
	firstPause   = 5 * time.Second
	longestPause = 5 * time.Minute
)

// short cuts a text of somebody else's to what fits a condition or a cause,
// in one line.
func short(text string) string {
	const most = 250
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
