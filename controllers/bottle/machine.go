// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/state"
)

// ensureMachine makes the machine exist and run: it looks, decides, and does
// one thing. A boot goes on by itself and has the Bottle looked at again.
func (r *Reconciler) ensureMachine(ctx context.Context, s *scope) error {
	say := r.ofSmolvm(ctx)
	if s.leak != nil {
		return r.holdLeaked(ctx, s)
	}
	if err := r.current(ctx, s); err != nil {
		return err
	}
	if err := r.takeBreach(ctx, s); err != nil {
		return err
	}
	if err := r.takeStart(s); err != nil {
		return mapped(err, say)
	}
	f, err := r.observeMachine(ctx, s)
	if err != nil {
		return mapped(err, say)
	}
	if fact := failing(r.Facts.Get(ctx), forMachines); fact != nil {
		f.NodeFault = fact.Message
	}
	if s.record != nil && s.record.Breach != "" {
		f.Machine.LastExit = "stopped by the operator: " + s.record.Breach
	}
	d := lifecycle.Decide(f)
	if d.Loss != "" {
		if err := r.countLoss(ctx, s, d.Loss); err != nil {
			return err
		}
		f.Record = s.record
		d = lifecycle.Decide(f)
	}
	s.comparePending(f)
	err = mapped(r.act(ctx, s, f, d), say)
	if f.Present && f.Ours || s.record != nil {
		s.tellMachine(f)
	}
	return err
}

// act does what was decided and says how the step stands.
func (r *Reconciler) act(ctx context.Context, s *scope, f lifecycle.Facts, d lifecycle.Decision) error {
	starting := &flow.Waiting{Reason: v1alpha1.ReasonMachineStarting, Message: "the machine is being started"}
	switch d.Action {
	case lifecycle.Nothing:
		return d.Wait
	case lifecycle.Create:
		if err := r.createMachine(ctx, s); err != nil {
			return err
		}
		fallthrough
	case lifecycle.Start:
		if err := r.checkPolicy(ctx, s); err != nil {
			return err
		}
		if err := r.beginStart(s); err != nil {
			return err
		}
		return starting
	case lifecycle.Stop:
		if err := r.stopMachine(ctx, s); err != nil {
			return err
		}
		starting.After = atOnce
		return starting
	case lifecycle.Replace:
		if err := r.stopMachine(ctx, s); err != nil {
			return err
		}
		r.view.Invalidate(s.name())
		if err := r.Machines.DeleteMachine(ctx, s.name()); err != nil {
			return err
		}
		starting.After = atOnce
		return starting
	case lifecycle.RecordRun:
		return r.noteRunning(ctx, s, f)
	}
	return fmt.Errorf("machine of bottle %s: no such action %q", s.key(), d.Action)
}

// observeMachine looks at everything that decide goes by.
func (r *Reconciler) observeMachine(ctx context.Context, s *scope) (lifecycle.Facts, error) {
	m, present, err := r.view.Get(ctx, s.name())
	if err == nil && !present && !r.starts.Running(s.owner.UID) {
		// Nothing is created, and no record given up, on an old list.
		r.view.Invalidate(s.name())
		m, present, err = r.view.Get(ctx, s.name())
	}
	if err != nil {
		return lifecycle.Facts{}, err
	}
	return lifecycle.Facts{
		Machine: m, Present: present, Ours: present && ours(m, s),
		Record:      s.record,
		Starting:    r.starts.Running(s.owner.UID),
		Unreachable: r.view.UnreachablePolls(s.name()),
		Restart:     wantsRestart(s),
		Recreate:    wantsRecreate(s),
		Now:         r.Clock.Now(),
	}, nil
}

// takeBreach records that the guard killed the machine, and reports it. It
// comes before the result of a start: a machine that the guard killed during
// its start did not fail to boot.
func (r *Reconciler) takeBreach(ctx context.Context, s *scope) error {
	breach := r.Enforcement.TakeBreach(s.owner.UID)
	if breach == nil {
		return nil
	}
	r.warn(ctx, s, v1alpha1.ReasonWallBroken, breach.What+"; the machine was stopped, and starts anew behind a mended wall")
	rec := r.runningRecord(s)
	rec.Breach = breach.What
	return s.setRecord(rec)
}

// countBootFailure counts a start that did not last; text says why.
func countBootFailure(rec *state.Record, now time.Time, text string) {
	rec.BootFailures++
	rec.LastBootFailure, rec.BootError, rec.BootReason = now, text, ""
	if rec.Breach != "" {
		rec.BootError, rec.BootReason = rec.Breach, v1alpha1.ReasonWallBroken
	}
}

func forgetBootFailures(rec *state.Record) {
	rec.BootFailures, rec.LastBootFailure, rec.BootError, rec.BootReason = 0, time.Time{}, "", ""
}

// takeStart takes note of how the last start went.
func (r *Reconciler) takeStart(s *scope) error {
	err, ok := r.starts.Take(s.owner.UID)
	if !ok {
		return nil
	}
	r.Metrics.started(err)
	if s.record == nil || err == nil || errors.Is(err, host.ErrNotFound) {
		return nil
	}
	if !errors.Is(err, host.ErrBootFailed) && !errors.Is(err, host.ErrInvalid) {
		return err
	}
	rec := *s.record
	countBootFailure(&rec, r.Clock.Now().UTC(), lifecycle.Short(err.Error()))
	return s.setRecord(rec)
}

// checkPolicy reads back, before a start, what smolvm persisted of the one
// allowed address.
func (r *Reconciler) checkPolicy(ctx context.Context, s *scope) error {
	policy, note, err := r.Enforcement.CheckPolicy(ctx, enforce.PolicyCheck{
		Name: s.name(), BundleIP: s.triple.BundleIP, Version: s.version,
		Artifact: s.record != nil && s.record.Artifact != (state.Artifact{}),
	})
	if err != nil {
		return err
	}
	if policy != probe.PolicyExact && r.RequireSmolvmPolicy {
		return &flow.Waiting{Reason: v1alpha1.ReasonPolicyNotPersisted, After: forSomebody,
			Message: note + ": the machine is not started, for the agent runs with --require-smolvm-policy"}
	}
	rec := r.runningRecord(s)
	rec.Policy = string(policy)
	return s.setRecord(rec)
}

// beginStart starts the machine apart from the pass. Whatever asked for it,
// the annotation and the values of Secrets as they are now are then in force.
func (r *Reconciler) beginStart(s *scope) error {
	rec := r.runningRecord(s)
	rec.RestartedAt = s.bottle.Annotations[v1alpha1.AnnotationRestartedAt]
	rec.Breach = ""
	// Values are read anew; which variables there are was fixed at create.
	rec.Secrets = maps.Clone(rec.Secrets)
	for name, hash := range state.Hashes(rec.Salt, s.secrets) {
		if _, has := rec.Secrets[name]; has {
			rec.Secrets[name] = hash
		}
	}
	if err := s.setRecord(rec); err != nil {
		return err
	}
	name, k, netns := s.name(), s.key(), s.wall.Path
	r.starts.Start(s.owner.UID, func(ctx context.Context) error {
		defer r.view.Invalidate(name)
		return r.Machines.StartMachine(ctx, name, netns)
	}, func() { r.Enqueue(k) })
	return nil
}

// stopMachine stops the machine as something asked for.
func (r *Reconciler) stopMachine(ctx context.Context, s *scope) error {
	if s.record != nil && s.record.Run != nil {
		rec := *s.record
		rec.Run = nil
		if err := s.setRecord(rec); err != nil {
			return err
		}
	}
	defer r.view.Invalidate(s.name())
	return r.Machines.StopMachine(ctx, s.name())
}

// noteRunning keeps which VMM runs, so that its end is noticed.
func (r *Reconciler) noteRunning(ctx context.Context, s *scope, f lifecycle.Facts) error {
	run := lifecycle.RunOf(f.Machine)
	if f.Machine.PID == 0 && s.record != nil && s.record.Run != nil {
		return nil // smolvm could not tell this time: no other VMM is known
	}
	stays := s.record != nil && s.record.BootFailures > 0 && f.Now.Sub(run.StartTime) >= stable
	if s.record == nil || s.record.Run == nil || !lifecycle.SameRun(*s.record.Run, run) || stays {
		rec := r.runningRecord(s)
		rec.Run = &run
		if stays {
			forgetBootFailures(&rec)
		}
		if rec.FirstRun.IsZero() {
			rec.FirstRun = firstOf(run.StartTime, f.Now)
		}
		if err := s.setRecord(rec); err != nil {
			return err
		}
	}
	r.watchExit(ctx, s, f.Machine)
	return nil
}

// runningRecord is the record to go on with: a machine of ours whose record
// was lost counts as made from what is asked for now.
func (r *Reconciler) runningRecord(s *scope) state.Record {
	if s.record != nil {
		return *s.record
	}
	return r.newRecord(s)
}

// stable is how long a machine must have run for its end to be no failed boot:
// a guest that ends itself at every start must not be restarted without pause.
const stable = time.Minute

func (r *Reconciler) countLoss(ctx context.Context, s *scope, cause string) error {
	rec := *s.record
	now := r.Clock.Now().UTC()
	if now.Sub(rec.Run.StartTime) < stable {
		countBootFailure(&rec, now, "it ended within a minute of its start: "+cause)
	} else {
		forgetBootFailures(&rec)
	}
	rec.Run = nil
	rec.Restarts++
	rec.LastLoss = &state.Loss{Time: r.Clock.Now().UTC().Truncate(time.Second), Cause: cause}
	if err := s.setRecord(rec); err != nil {
		return err
	}
	r.Metrics.lost()
	r.warn(ctx, s, eventMachineLost, "the machine ended without being asked to: "+cause)
	return nil
}

// watchExit requests a pass over the Bottle in the instant in which its VMM
// ends. The poll finds it out too, only later.
func (r *Reconciler) watchExit(ctx context.Context, s *scope, m host.Machine) {
	if m.PID == 0 {
		return
	}
	run := lifecycle.RunOf(m)
	r.mu.Lock()
	was, watched := r.watched[s.owner.UID]
	r.watched[s.owner.UID] = run
	until := r.watches
	r.mu.Unlock()
	if watched && lifecycle.SameRun(was, run) {
		return
	}
	k := s.key()
	err := r.Machines.WatchExit(until, m, func(name string) {
		r.view.Invalidate(name)
		r.Enqueue(k)
	})
	if err != nil {
		logf.FromContext(ctx).V(1).Info("The VMM's end cannot be watched; the poll will notice it", "machine", m.Name, "error", err.Error())
	}
}

// tellMachine fills the status with what is known of the machine.
func (s *scope) tellMachine(f lifecycle.Facts) {
	rec := s.record
	st := &v1alpha1.MachineStatus{Name: s.name()}
	if s.version.Version != "" {
		st.SmolvmVersion = ptr.To(s.version.Version)
	} else if s.status.Machine != nil {
		st.SmolvmVersion = s.status.Machine.SmolvmVersion
	}
	if f.Present && f.Ours && f.Machine.State == host.MachineRunning {
		if f.Machine.PID > 0 {
			st.PID = ptr.To(int64(f.Machine.PID))
		}
		st.StartTime = timeOf(f.Machine.StartTime)
	}
	if rec != nil {
		st.Restarts = ptr.To(rec.Restarts)
		if rec.LastLoss != nil {
			st.LastLoss = &v1alpha1.MachineLoss{Time: *timeOf(rec.LastLoss.Time), Cause: rec.LastLoss.Cause}
		}
		s.status.Image = imageStatus(rec)
		if s.status.StartTime == nil {
			s.status.StartTime = timeOf(rec.FirstRun)
		}
	}
	s.status.Machine = st
}

// timeOf is t as the API keeps it, nil for none.
func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return ptr.To(metav1.NewTime(t).Rfc3339Copy())
}

func firstOf(t, otherwise time.Time) time.Time {
	if t.IsZero() {
		return otherwise.UTC().Truncate(time.Second)
	}
	return t.UTC().Truncate(time.Second)
}
