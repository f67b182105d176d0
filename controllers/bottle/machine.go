// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/narrow"
	"botbottle.dev/bottle-operator/internal/agentmetrics"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/exits"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/jobs"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/passes"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/workload"
)

// machineStep creates, starts, stops and deletes the machine.
type machineStep struct {
	machines    host.Machines
	view        *machineview.View
	starts      *jobs.Set[error]
	images      host.Images
	enforcement Enforcement
	exits       *exits.Watch
	requests    *passes.Requests
	events      *reporter
	causes      outcome.Causes
	clock       clock.Clock
	metrics     *agentmetrics.Metrics
	reader      client.Reader
	stops       *narrow.Stops
	broker      *broker.Broker
	runtimes    Runtimes
	workload    *workloadStep
	// requirePolicy: a machine is started only if smolvm shows exactly the one
	// allowed address for it.
	requirePolicy bool
}

// ensure creates and runs the machine: it observes, decides, and does one thing.
// A boot continues outside the pass, and requests another pass when it ends.
func (m *machineStep) ensure(ctx context.Context, s *scope) error {
	reasons := m.causes.Smolvm(ctx)
	if err := s.created(); err != nil {
		return outcome.Map(err, reasons)
	}
	if s.leak != nil {
		return m.holdLeaked(ctx, s)
	}
	if err := m.checkCurrent(ctx, s); err != nil {
		return err
	}
	if err := m.recordBreach(ctx, s); err != nil {
		return err
	}
	if err := m.recordStart(s); err != nil {
		return outcome.Map(err, reasons)
	}
	if err := m.recordStop(ctx, s); err != nil {
		return err
	}
	f, err := m.observe(ctx, s)
	if err != nil {
		return outcome.Map(err, reasons)
	}
	if fact := m.causes.MachineProblem(ctx); fact != nil {
		f.NodeProblem = fact.Message
	}
	if s.record != nil && s.record.Breach != "" {
		f.Machine.LastExit = "stopped by the operator: " + s.record.Breach
	}
	s.comparePending(f)
	f.Differs = len(s.pending) > 0
	d := lifecycle.Decide(f)
	if d.Loss != "" {
		end := workload.Lost(s.work, d.Loss)
		if err := m.countLoss(ctx, s, d.Loss); err != nil {
			return err
		}
		if end != nil {
			return m.endLost(s, *end)
		}
		f.Record = s.record
		d = lifecycle.Decide(f)
	}
	if end := workload.LostUnseen(s.work); end != nil && d.Action == lifecycle.Start && !f.Restart {
		return m.endLost(s, *end)
	}
	err = outcome.Map(m.act(ctx, s, f, d), reasons)
	if f.Present && f.Ours || s.record != nil {
		s.reportMachine(f)
	}
	return err
}

// act carries out the decision and returns the outcome of the step.
func (m *machineStep) act(ctx context.Context, s *scope, f lifecycle.Facts, d lifecycle.Decision) error {
	starting := &flow.Waiting{Reason: v1alpha1.ReasonMachineStarting, Message: "the machine is being started"}
	switch d.Action {
	case lifecycle.Nothing:
		return d.Wait
	case lifecycle.Create:
		if err := m.create(ctx, s); err != nil {
			return err
		}
		fallthrough
	case lifecycle.Start:
		if err := m.checkPolicy(ctx, s); err != nil {
			return err
		}
		if err := m.start(ctx, s); err != nil {
			return err
		}
		return starting
	case lifecycle.Stop:
		if err := m.stop(ctx, s); err != nil {
			return err
		}
		starting.After = immediately
		return starting
	case lifecycle.Replace:
		if err := m.stop(ctx, s); err != nil {
			return err
		}
		m.view.Invalidate(s.name())
		if err := m.machines.DeleteMachine(ctx, s.name()); err != nil {
			return err
		}
		s.pending = nil
		starting.After = immediately
		return starting
	case lifecycle.RecordRun:
		if err := m.recordRun(ctx, s, f); err != nil {
			return err
		}
		return m.updateOrders(ctx, s)
	}
	return fmt.Errorf("machine of bottle %s: no such action %q", s.key(), d.Action)
}

// observe returns the facts that lifecycle.Decide needs.
func (m *machineStep) observe(ctx context.Context, s *scope) (lifecycle.Facts, error) {
	listed, present, err := m.listed(ctx, s)
	if err != nil {
		return lifecycle.Facts{}, err
	}
	return lifecycle.Facts{
		Machine: listed, Present: present, Ours: present && ours(listed, s),
		Record:      s.record,
		Starting:    m.starts.Running(s.owner.UID),
		Unreachable: m.view.UnreachablePolls(s.name()),
		Restart:     restartRequested(s) || needsStart(s, m.clock.Now()),
		Recreate:    workload.Recreated(s.bottle, s.record),
		Now:         m.clock.Now(),
	}, nil
}

// listed returns the machine. An old list must not cause a machine to be created
// or counted as lost.
func (m *machineStep) listed(ctx context.Context, s *scope) (machine host.Machine, present bool, err error) {
	machine, present, err = m.view.Get(ctx, s.name())
	if err == nil && !present && !m.starts.Running(s.owner.UID) {
		m.view.Invalidate(s.name())
		machine, present, err = m.view.Get(ctx, s.name())
	}
	return machine, present, err
}

// recordBreach records and reports that the guard killed the machine. It comes
// before recordStart: a machine that the guard killed during its start did not
// fail to boot.
func (m *machineStep) recordBreach(ctx context.Context, s *scope) error {
	breach := m.enforcement.TakeBreach(s.owner.UID)
	if breach == nil {
		return nil
	}
	m.view.Invalidate(s.name())
	m.events.warn(ctx, s, v1alpha1.ReasonWallBroken, breach.What+"; the machine was stopped and starts again behind a repaired wall")
	rec := runningRecord(s)
	rec.Breach = breach.What
	return s.setRecord(rec)
}

// countBootFailure counts a machine that did not stay up; text says why.
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

// recordStart records the result of the last start.
func (m *machineStep) recordStart(s *scope) error {
	err, ok := m.starts.Take(s.owner.UID)
	if !ok {
		return nil
	}
	m.metrics.Started(err)
	if s.record == nil {
		return nil
	}
	switch {
	case errors.Is(err, host.ErrBootFailed), errors.Is(err, host.ErrInvalid):
		rec := *s.record
		countBootFailure(&rec, m.clock.Now().UTC(), lifecycle.Short(err.Error()))
		return s.setRecord(rec)
	case errors.Is(err, host.ErrNotFound):
		return nil
	}
	return err
}

// checkPolicy checks before a start that smolvm persisted the one allowed address.
func (m *machineStep) checkPolicy(ctx context.Context, s *scope) error {
	policy, note, err := m.enforcement.CheckPolicy(ctx, enforce.PolicyCheck{
		Name: s.name(), BundleIP: s.triple.BundleIP, Version: s.version,
		Artifact: s.record != nil && s.record.Artifact != (state.Artifact{}),
	})
	if err != nil {
		return err
	}
	if policy != probe.PolicyExact && m.requirePolicy {
		return &flow.Waiting{Reason: v1alpha1.ReasonPolicyNotPersisted, After: externalDelay,
			Message: note + ": the machine is not started, because the agent runs with --require-smolvm-policy"}
	}
	rec := runningRecord(s)
	rec.Policy = string(policy)
	return s.setRecord(rec)
}

// start starts the machine in the background. Whatever the reason for the
// start, it applies the current annotation and the current values of Secrets.
func (m *machineStep) start(ctx context.Context, s *scope) error {
	if s.podOutdated { // the next pass waits for the Pod that replaces it
		return &flow.Waiting{Reason: v1alpha1.ReasonMachineStarting, Message: "the Bottle's Pod is replaced first", After: immediately}
	}
	// A stop may have been requested while the machine was being created.
	if err := m.checkCurrent(ctx, s); err != nil {
		return err
	}
	rec := runningRecord(s)
	rec.RestartedAt = s.bottle.Annotations[v1alpha1.AnnotationRestartedAt]
	rec.Breach, rec.Pod = "", m.runtimes.PodOf(s.owner.UID)
	rec.BundleMemory = machinesize.BundleOf(s.bottle.Status.Resources).MemoryBytes
	if rec.Workload.Out != "" {
		s.work.Record = &rec
		rec.Workload = workload.Start(s.work, state.NewSalt(), s.phase)
		rec.Trusts, rec.Placeholders = s.opened != nil, desired.Placeholders(s.bottle)
	}
	if err := m.broker.Renew(ctx, s.bottle); err != nil {
		return err
	}
	// A start reads the values again. The set of variables is fixed when the
	// machine is created.
	rec.Secrets = maps.Clone(rec.Secrets)
	for name, hash := range state.Hashes(rec.Salt, s.secrets) {
		if _, has := rec.Secrets[name]; has {
			rec.Secrets[name] = hash
		}
	}
	if err := s.setRecord(rec); err != nil {
		return err
	}
	if w := rec.Workload; w.Out != "" {
		if err := m.workload.exchanges.RenewExchange(ctx, s.owner.UID, w.Out, workload.Orders(s.bottle, w, s.opened)); err != nil {
			return err
		}
	}
	name, k, netns := s.name(), s.key(), s.wall.Path
	m.starts.Start(s.owner, func(ctx context.Context) error {
		defer m.view.Invalidate(name)
		return m.machines.StartMachine(ctx, name, netns)
	}, func() { m.requests.Continue(k) })
	return nil
}

// stop stops the machine on request, so that its end is not a loss.
func (m *machineStep) stop(ctx context.Context, s *scope) error {
	s.forgetRun()
	if err := s.saveRecord(); err != nil {
		return err
	}
	defer m.view.Invalidate(s.name())
	return m.machines.StopMachine(ctx, s.name())
}

// holdLeaked keeps the machine stopped after a leak.
func (m *machineStep) holdLeaked(ctx context.Context, s *scope) error {
	if err := m.ensureDown(ctx, s); err != nil {
		return err
	}
	return &flow.Terminal{Reason: v1alpha1.ReasonLeakDetected, Err: errors.New(leakMessage(s))}
}

// errSuperseded ends a pass before it does something that a change of the Bottle
// during the pass may forbid.
var errSuperseded = errors.New("the Bottle changed during the pass")

// checkCurrent returns errSuperseded if the Bottle changed during the pass.
func (m *machineStep) checkCurrent(ctx context.Context, s *scope) error {
	now := &v1alpha1.Bottle{}
	if err := m.reader.Get(ctx, s.key(), now); err != nil {
		return client.IgnoreNotFound(err)
	}
	if now.UID == s.bottle.UID && (now.Generation != s.bottle.Generation || desired.Leaving(now) != desired.Leaving(s.bottle)) {
		return errSuperseded
	}
	return nil
}
