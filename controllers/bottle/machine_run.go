// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/workload"
)

// recordRun records which VMM runs, so that its end is noticed.
func (m *machineStep) recordRun(ctx context.Context, s *scope, f lifecycle.Facts) error {
	run := lifecycle.RunOf(f.Machine)
	if f.Machine.PID == 0 && s.record != nil && s.record.Run != nil {
		return nil // smolvm did not report the PID this time; the record stays
	}
	stayedUp := s.record != nil && s.record.BootFailures > 0 && f.Now.Sub(run.StartTime) >= stable
	if s.record == nil || s.record.Run == nil || !lifecycle.SameRun(*s.record.Run, run) || stayedUp || s.record.Workload.Stopping {
		rec := runningRecord(s)
		rec.Run = &run
		rec.Workload.Stopping = false // a requested stop failed, and nobody wants it any more
		if stayedUp {
			forgetBootFailures(&rec)
		}
		if rec.FirstRun.IsZero() {
			rec.FirstRun = firstOf(run.StartTime, f.Now)
			if st := s.bottle.Status.StartTime; st != nil && !rec.Workload.Released {
				rec.Workload.Began = st.UTC() // on another node, which was lost
			}
		}
		if workload.Began(&rec).IsZero() && s.phase == workload.Running {
			rec.Workload.Began = firstOf(run.StartTime, f.Now)
		}
		if err := s.setRecord(rec); err != nil {
			return err
		}
	}
	m.exits.Start(ctx, s.key(), s.owner.UID, f.Machine)
	return nil
}

// runningRecord returns the record to continue with. If the record of our
// machine was lost, the machine is assumed to match the current spec.
func runningRecord(s *scope) state.Record {
	if s.record != nil {
		return *s.record
	}
	return newRecord(s)
}

// stable is how long a machine must run before its end no longer counts as a
// failed boot. A guest that shuts down after every start must not be restarted
// without a pause.
const stable = time.Minute

func (m *machineStep) countLoss(ctx context.Context, s *scope, cause string) error {
	rec := *s.record
	now := m.clock.Now().UTC()
	if now.Sub(rec.Run.StartTime) < stable {
		countBootFailure(&rec, now, "it ended within a minute of its start: "+cause)
	} else {
		forgetBootFailures(&rec)
	}
	rec.Run = nil
	rec.Restarts++
	rec.LastLoss = &state.Loss{Time: m.clock.Now().UTC().Truncate(time.Second), Cause: cause}
	if err := s.setRecord(rec); err != nil {
		return err
	}
	m.metrics.Lost()
	m.events.warn(ctx, s, eventMachineLost, "the machine ended unexpectedly: "+cause)
	return nil
}

// endLost begins to end a Bottle whose machine was lost and must not run again.
func (m *machineStep) endLost(s *scope, end state.End) error {
	if err := s.setRecord(*workload.End(s.record, end, m.clock.Now())); err != nil {
		return err
	}
	return &flow.Waiting{Reason: v1alpha1.ReasonStopping, Message: end.Message, After: immediately}
}

// needsStart reports whether only another start of the machine starts the workload
// again. A guest must not make that happen without pause.
func needsStart(s *scope, now time.Time) bool {
	return s.record != nil && s.record.Run != nil && workload.NeedsStart(s.work) && now.Sub(s.record.Run.StartTime) >= stable
}

// updateOrders tells a running supervisor what has changed since its start.
func (m *machineStep) updateOrders(ctx context.Context, s *scope) error {
	w := s.record.Workload
	if w.Out == "" || w.Start == "" {
		return nil
	}
	if w.Idle && s.phase == workload.Running && !workload.Held(s.bottle) {
		rec := *s.record
		rec.Workload.Idle = false
		if err := s.setRecord(rec); err != nil {
			return err
		}
		w = rec.Workload
	}
	return m.workload.exchanges.WriteOrders(ctx, s.owner.UID, workload.Orders(s.bottle, w, s.opened))
}
