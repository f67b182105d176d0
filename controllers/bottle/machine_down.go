// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/lifecycle"
)

// ensureDown stops the machine and is satisfied once smolvm says that
// it is down. Nothing is pulled for one that is to be down.
func (m *machineStep) ensureDown(ctx context.Context, s *scope) error {
	say := m.causes.smolvm(ctx)
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
		return mapped(err, say)
	}
	if !present || !ours(listed, s) || down(listed) {
		s.forgetRun()
		if s.record != nil {
			s.reportMachine(lifecycle.Facts{Machine: listed, Present: present, Ours: present && ours(listed, s)})
		}
		return s.saveRecord()
	}
	if err := m.stop(ctx, s); err != nil {
		return mapped(err, say)
	}
	return &flow.Waiting{Reason: v1alpha1.ReasonStopping, Message: "the machine is being stopped", After: atOnce}
}

// down says whether no VM of the machine can be alive.
func down(m host.Machine) bool {
	return m.State == host.MachineCreated || m.State == host.MachineStopped || m.State == host.MachineFailed
}

// forgetRun takes a machine that is down, as it should be, for not lost.
func (s *scope) forgetRun() {
	if s.record == nil || s.record.Run == nil {
		return
	}
	rec := *s.record
	rec.Run = nil
	s.record = &rec
}

func (s *scope) saveRecord() error {
	if s.record == nil {
		return nil
	}
	return s.folder.WriteRecord(s.record)
}

// delete removes the machine, first calling off a pull for it and a
// start of it. Without a smolvm there is nothing to remove for a Bottle that
// never had a machine.
func (m *machineStep) delete(ctx context.Context, s *scope) error {
	say := m.causes.smolvm(ctx)
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
		return mapped(err, say)
	}
	if present && !ours(listed, s) {
		return nil
	}
	// A machine with a record of ours and none of smolvm's may have been deleted
	// half way: what is left of its data goes, too.
	s.forgetRun()
	if err := s.saveRecord(); err != nil {
		return err
	}
	defer m.view.Invalidate(s.name())
	return mapped(m.machines.DeleteMachine(ctx, s.name()), say)
}
