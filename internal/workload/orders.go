// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// guestProgram is the guest program's path in the guest.
const guestProgram = supervise.In + "/" + supervise.Program

// Command returns the machine's command that supervises a workload.
func Command(workload []string) []string {
	return append([]string{guestProgram, "supervise", "--"}, workload...)
}

// StopCommand returns the command to run in the guest that ends the workload.
func StopCommand() []string { return []string{guestProgram, "stop", "--grace", grace.String()} }

// Start returns the state of the workload for a new start of the machine with this
// identity. held: the workload does not run, or not yet.
func Start(f Facts, id string, p Phase) state.Workload {
	w := f.Record.Workload
	if w.Start != "" && p == Running {
		w.Restarts = restarts(f)
	}
	w.Start, w.Stopping, w.OutputLost = id, false, false
	w.Stdin = string(f.Bottle.Spec.Stdin)
	w.Idle = p == FilesOpen || Held(f.Bottle)
	return w
}

// restarts returns the number of restarts before the next start of the machine.
func restarts(f Facts) int32 {
	n := f.Record.Workload.Restarts
	started := false
	if r := counts(f); r != nil && !r.StartTime.IsZero() {
		n, started = max(n, r.Restarts), true
	}
	if st := f.Bottle.Status.Workload; st != nil {
		if st.Restarts != nil {
			n = max(n, *st.Restarts)
		}
		started = true
	}
	if started && n < maxRestarts {
		n++
	}
	return n
}

// maxRestarts bounds what the guest can make the agent count to.
const maxRestarts = 1 << 30

// Held reports whether the user keeps the workload from starting.
func Held(b *v1alpha1.Bottle) bool {
	_, held := b.Annotations[v1alpha1.AnnotationHold]
	return held
}

// Orders returns what the supervisor is to do. env has variables for the command.
func Orders(b *v1alpha1.Bottle, w state.Workload, env map[string]string) supervise.Orders {
	o := supervise.Orders{Env: env, Start: w.Start, Workload: supervise.Run, RestartPolicy: string(b.Spec.RestartPolicy), Stdin: w.Stdin, Restarts: w.Restarts}
	if w.Idle {
		o.Workload = supervise.Idle
	}
	return o
}
