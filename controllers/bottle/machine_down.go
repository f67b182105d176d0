// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/outcome"
)

// ensureDown cancels a pull and a start, and stops the machine. It is satisfied
// once smolvm reports that the machine is down.
func (m *machineStep) ensureDown(ctx context.Context, s *scope) error {
	reasons := m.causes.Smolvm(ctx)
	m.images.Forget(s.owner.UID)
	if m.starts.Running(s.owner.UID) {
		if err := m.starts.Cancel(ctx, s.owner.UID); err != nil {
			return err
		}
		m.view.Invalidate(s.name())
	}
	listed, present, err := m.view.Get(ctx, s.name())
	if errors.Is(err, host.ErrUnavailable) && s.record == nil {
		return nil // no machine was ever created
	}
	if err != nil {
		return outcome.Map(err, reasons)
	}
	if !present || !ours(listed, s) || down(listed) {
		s.forgetRun()
		if s.record != nil {
			s.reportMachine(lifecycle.Facts{Machine: listed, Present: present, Ours: present && ours(listed, s)})
		}
		return s.saveRecord()
	}
	if err := m.stop(ctx, s); err != nil {
		return outcome.Map(err, reasons)
	}
	return &flow.Waiting{Reason: v1alpha1.ReasonStopping, Message: "the machine is being stopped", After: immediately}
}

// down reports whether the machine has no running VM.
func down(m host.Machine) bool {
	return m.State == host.MachineCreated || m.State == host.MachineStopped || m.State == host.MachineFailed
}

// recordStop records that the machine was not lost if it was stopped on request, or ended
// with its Pod. A start may find another Pod than the one when it was requested.
func (m *machineStep) recordStop(ctx context.Context, s *scope) error {
	stopped, pod := m.stops.Take(s.owner.UID), m.runtimes.PodOf(s.owner.UID)
	if !stopped {
		started := m.runtimes.StartedIn(s.owner.UID)
		if s.record == nil || s.record.Pod == "" || pod == "" || pod == s.record.Pod || pod == started || m.starts.Running(s.owner.UID) {
			return nil
		}
		if lives, err := m.machines.Lives(ctx, s.name()); err != nil || lives {
			return err
		}
	}
	s.forgetRun()
	return s.saveRecord()
}

// forgetRun drops the run from the record, so that a machine that was stopped
// on request does not count as lost, and its workload not as ended.
func (s *scope) forgetRun() {
	if s.record == nil {
		return
	}
	rec := *s.record
	rec.Run, rec.Workload.Stopping = nil, rec.Workload.Start != ""
	s.record = &rec
}

func (s *scope) saveRecord() error {
	if s.record == nil {
		return nil
	}
	return s.folder.WriteRecord(s.record)
}

// delete removes the machine. It first cancels a pull, a start and a proof. If
// smolvm is unavailable and the Bottle never had a machine, there is nothing to
// remove.
func (m *machineStep) delete(ctx context.Context, s *scope) error {
	reasons := m.causes.Smolvm(ctx)
	m.images.Forget(s.owner.UID)
	if err := m.starts.Cancel(ctx, s.owner.UID); err != nil {
		return err
	}
	if err := m.enforcement.CancelProof(ctx, s.owner.UID); err != nil {
		return err
	}
	m.view.Invalidate(s.name())
	listed, present, err := m.view.Get(ctx, s.name())
	if errors.Is(err, host.ErrUnavailable) && s.record == nil {
		return nil
	}
	if err != nil {
		return outcome.Map(err, reasons)
	}
	if present && !ours(listed, s) {
		return nil
	}
	// A machine that we recorded and smolvm does not list may be half deleted.
	// DeleteMachine removes the rest of its data, too.
	s.forgetRun()
	if err := s.saveRecord(); err != nil {
		return err
	}
	defer m.view.Invalidate(s.name())
	return outcome.Map(m.machines.DeleteMachine(ctx, s.name()), reasons)
}
