// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"time"

	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/state"
)

// recordRun records which VMM runs, so that its end is noticed.
func (m *machineStep) recordRun(ctx context.Context, s *scope, f lifecycle.Facts) error {
	run := lifecycle.RunOf(f.Machine)
	if f.Machine.PID == 0 && s.record != nil && s.record.Run != nil {
		return nil // smolvm did not report the PID this time; the record stays
	}
	stayedUp := s.record != nil && s.record.BootFailures > 0 && f.Now.Sub(run.StartTime) >= stable
	if s.record == nil || s.record.Run == nil || !lifecycle.SameRun(*s.record.Run, run) || stayedUp {
		rec := runningRecord(s)
		rec.Run = &run
		if stayedUp {
			forgetBootFailures(&rec)
		}
		if rec.FirstRun.IsZero() {
			rec.FirstRun = firstOf(run.StartTime, f.Now)
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
	m.metrics.lost()
	m.events.warn(ctx, s, eventMachineLost, "the machine ended unexpectedly: "+cause)
	return nil
}
