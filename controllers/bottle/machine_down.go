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

// ensureMachineDown stops the machine and is satisfied once smolvm says that
// it is down. Nothing is pulled for one that is to be down.
func (r *Reconciler) ensureMachineDown(ctx context.Context, s *scope) error {
	say := r.ofSmolvm(ctx)
	r.Images.Forget(s.owner.UID)
	if r.starts.Running(s.owner.UID) {
		if err := r.starts.Cancel(ctx, s.owner.UID); err != nil {
			return err
		}
		r.view.Invalidate(s.name())
	}
	m, present, err := r.view.Get(ctx, s.name())
	if errors.Is(err, host.ErrUnavailable) && s.record == nil {
		return nil // no machine was ever created
	}
	if err != nil {
		return mapped(err, say)
	}
	if !present || !ours(m, s) || down(m) {
		s.forgetRun()
		if s.record != nil {
			s.tellMachine(lifecycle.Facts{Machine: m, Present: present, Ours: present && ours(m, s)})
		}
		return s.saveRecord()
	}
	if err := r.stopMachine(ctx, s); err != nil {
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
