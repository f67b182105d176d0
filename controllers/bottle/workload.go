// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/jobs"
	"botbottle.dev/bottle-operator/internal/passes"
	"botbottle.dev/bottle-operator/internal/reports"
	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/internal/workload"
)

// Sessions knows the sessions of users in the guests.
type Sessions interface {
	// Sessions returns how many sessions that copy files are open in the Bottle with
	// this UID, and when one was last open; zero if none was.
	Sessions(uid string) (open int, last time.Time)
}

// workloadStep follows the workload of a machine and ends a Bottle whose workload, or
// whose time, has ended.
type workloadStep struct {
	exchanges host.Exchanges
	machines  host.Machines
	sessions  Sessions // nil for none
	reports   *reports.Watch
	stops     *jobs.Set[error]
	requests  *passes.Requests
	machine   *machineStep
	clock     clock.Clock
}

// observe reads the report and decides what the pass is to do about the Bottle.
func (t *workloadStep) observe(ctx context.Context, s *scope) error {
	s.work = workload.Facts{Bottle: s.bottle, Record: s.record, Leak: s.leak != nil, Now: t.clock.Now()}
	if t.sessions != nil {
		s.work.OpenSessions, s.work.LastSession = t.sessions.Sessions(s.owner.UID)
	}
	if s.record != nil && s.record.Workload.Out != "" {
		// A guest that writes anything else than a report reports nothing.
		if r, err := t.exchanges.ReadReport(ctx, s.record.Workload.Out); err == nil {
			s.work.Report = &r
		}
	}
	d := workload.Decide(s.work)
	if d.Record != nil {
		if err := s.folder.Ensure(s.owner); err != nil {
			return err
		}
		if err := s.setRecord(*d.Record); err != nil {
			return err
		}
	}
	if workload.Anew(s.record) { // also if an earlier write of the status was lost
		s.status.Workload, s.status.StartTime = nil, nil
	}
	s.phase, s.work.Record = d.Phase, s.record
	t.follow(s, d.Deadline)
	t.report(s)
	if !workload.LosesOutput(s.work) {
		return nil
	}
	rec := *s.record
	rec.Workload.OutputLost = true
	t.machine.events.warn(ctx, s, v1alpha1.ReasonOutputLost, "the command printed more than could be kept: a part of its output is missing from its log")
	return s.setRecord(rec)
}

// follow makes the agent notice the next report and the deadline.
func (t *workloadStep) follow(s *scope, deadline time.Time) {
	if s.record == nil || s.phase == workload.Finished {
		t.reports.Forget(s.owner.UID)
		return
	}
	next := reports.Subject{Deadline: deadline}
	if w := s.record.Workload; w.Out != "" && !w.Stopping {
		next.Out, next.Start = w.Out, w.Start
	}
	t.reports.Follow(s.owner.UID, next)
}

// report reports the workload in the status: at once how it ended, and anything else at
// most once a minute.
func (t *workloadStep) report(s *scope) {
	before := s.status.Workload
	now := workload.Status(s.work, before)
	if workload.Same(before, now) {
		return
	}
	if before != nil && s.phase == workload.Running && !workload.Ended(s.work) {
		if may, wait := t.reports.MayWrite(s.owner.UID); !may {
			s.requeueWithin(wait)
			return
		}
	}
	s.status.Workload = now
}

// end stops the machine of a Bottle for good. Before that, it lets sessions that copy
// files end, and the workload, if it still runs.
func (t *workloadStep) end(ctx context.Context, s *scope) error {
	uid := s.owner.UID
	if t.machine.starts.Running(uid) && workload.Ended(s.work) { // a cancelled start would lose what the workload wrote
		return &flow.Waiting{Reason: v1alpha1.ReasonMachineStarting, Message: "the machine is being started, and its command has ended already"}
	}
	if workload.WaitsForSessions(s.work) {
		return &flow.Waiting{Reason: v1alpha1.ReasonStopping, Message: "the machine is stopped once the copies of files have ended", After: time.Second}
	}
	if workload.WaitsForLog(ctx, s.work, t.machines, s.name()) {
		return &flow.Waiting{Reason: v1alpha1.ReasonStopping, Message: "the machine is stopped once its log has the end of the output", After: 100 * time.Millisecond}
	}
	if workload.NeedsStop(s.work) && s.record.Run != nil {
		if _, stopped := t.stops.Take(uid); !stopped {
			t.stop(s)
			return &flow.Waiting{Reason: v1alpha1.ReasonStopping, Message: "the command was asked to end", After: workload.StopTimeout}
		}
	}
	if err := t.stops.Cancel(ctx, uid); err != nil {
		return err
	}
	if err := t.machine.ensureDown(ctx, s); err != nil {
		return err
	}
	if err := s.setRecord(*workload.Finish(s.record, t.clock.Now())); err != nil {
		return err
	}
	t.reports.Forget(uid)
	return nil
}

// stop asks the workload to end, outside the pass.
func (t *workloadStep) stop(s *scope) {
	name, k := s.name(), s.key()
	t.stops.Start(s.owner, func(ctx context.Context) error {
		_, err := t.machines.Exec(ctx, name, host.ExecRequest{Command: workload.StopCommand(), Timeout: workload.StopTimeout})
		return err // the machine is stopped, whatever the guest did
	}, func() { t.requests.Continue(k) })
}

// open notes when files can be copied for the first time. Until nobody copies any more,
// passes look again and again.
func (t *workloadStep) open(_ context.Context, s *scope) error {
	if s.record.Workload.FilesReady.IsZero() {
		rec := *s.record
		rec.Workload.FilesReady = t.clock.Now().UTC()
		if err := s.setRecord(rec); err != nil {
			return err
		}
	}
	s.requeueWithin(nodeDelay)
	return nil
}

// close stops the machine after files were copied.
func (t *workloadStep) close(ctx context.Context, s *scope) error {
	if err := t.machine.ensureDown(ctx, s); err != nil {
		return err
	}
	return s.setRecord(*workload.CloseFiles(s.record))
}

// delete forgets the workload and removes the folders that the guest saw.
func (t *workloadStep) delete(ctx context.Context, s *scope) error {
	t.reports.Forget(s.owner.UID)
	return t.exchanges.RemoveExchange(ctx, s.owner.UID)
}

// prepare finds out the command of a new machine and, if it is supervised, creates the
// folders for its supervisor.
func (t *workloadStep) prepare(ctx context.Context, s *scope) error {
	s.command, s.exchange = s.bottle.Spec.Command, host.Exchange{}
	if err := t.prepareExchange(ctx, s); err != nil {
		return err
	}
	return t.openedMount(ctx, s)
}

// prepareExchange creates the folders for the supervisor of a new machine, if it has one.
func (t *workloadStep) prepareExchange(ctx context.Context, s *scope) error {
	if !s.version.Command || s.image.Path == "" {
		return nil // smolvm waits for the end of a bare machine's command
	}
	command, err := s.command, error(nil)
	switch {
	case len(command) > 0:
	case s.bottle.Spec.Artifact != nil:
		command, err = t.machines.ArtifactCommand(ctx, s.image.Path)
	default:
		command, err = t.machine.images.Command(ctx, s.image.Path)
	}
	if err != nil || len(command) == 0 {
		return err
	}
	out := ""
	if s.record != nil {
		out = s.record.Workload.Out
	}
	if s.exchange, err = t.exchanges.EnsureExchange(ctx, s.owner.UID, out); err != nil {
		return err
	}
	s.command = workload.Command(command)
	return nil
}

// openedMount writes what a guest without a supervisor trusts, to be mounted at trustTarget.
func (t *workloadStep) openedMount(ctx context.Context, s *scope) (err error) {
	if s.exchange.Out == "" && len(desired.OpenRules(s.bottle)) > 0 {
		s.trustDir, err = t.exchanges.WriteTrust(ctx, s.owner.UID, nil)
	}
	return err
}

const trustTarget = supervise.In + "/" + supervise.TrustDir

// forPhase returns the list of steps for the phase of the pass.
func (p *steps) forPhase(s *scope) []step {
	switch s.phase {
	case workload.Ending:
		return p.down(step{Name: "machine", Condition: v1alpha1.ConditionMachineReady, Do: p.workload.end})
	case workload.FilesClosing:
		return p.finished(p.workload.close)
	case workload.Finished:
		return p.finished(p.machine.ensureDown)
	case workload.FilesOpen:
		return append(p.converge(), step{Name: "files", Do: p.workload.open})
	}
	if desired.Stopped(s.bottle) {
		return p.halt()
	}
	return p.converge()
}

// statusOf adds what concerns the workload to what the conditions are computed from.
func (s *scope) workloadInput(in *agentstatus.Input) {
	if s.record == nil {
		return
	}
	w := s.record.Workload
	in.Finished, in.FilesOpen = w.Finished, !w.FilesSince.IsZero()
	if w.Out == "" {
		in.Unsupervised = workload.Unsupervised(s.record, s.version)
	}
}
