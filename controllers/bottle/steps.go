// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"cmp"
	"context"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/bundlespec"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/room"
	"botbottle.dev/bottle-operator/internal/subnetchoice"
	"botbottle.dev/bottle-operator/internal/workload"
)

// step is one step of a pass over a Bottle.
type step = flow.Step[*scope]

// steps holds the steps of a pass. Each has its own type, which knows only its
// ports and its part of the scope. No step knows another.
type steps struct {
	adopt    *adoptStep
	room     *room.Gate
	network  *networkStep
	smolfile *smolfileStep
	broker   *brokerStep
	bundle   *bundleStep
	image    *imageStep
	wall     *wallStep
	machine  *machineStep
	proof    *proofStep
	workload *workloadStep
}

// newSteps returns the steps. Each gets only what it needs.
func (r *Reconciler) newSteps() steps {
	o, causes := r.Options, outcome.Causes{Facts: r.Facts}
	p := steps{
		adopt: &adoptStep{client: o.Client},
		room:  room.New(room.Options{Client: o.Client, Node: o.Node, State: o.State}),
		network: &networkStep{
			runtimes: o.Runtimes, events: r.events, networks: o.Networks, surroundings: o.Surroundings,
			chooser: subnetchoice.Chooser{Networks: o.Networks, Pool: o.Pool}, causes: causes,
		},
		smolfile: &smolfileStep{references: o.References, machines: o.Machines, events: r.events, causes: causes},
		broker: &brokerStep{
			broker: o.Broker, runtimes: o.Runtimes, machines: o.Machines, starts: r.starts, causes: causes, upstreamCA: o.UpstreamCA,
		},
		bundle: &bundleStep{
			renderer: bundlespec.Renderer{References: o.References, AllowedImages: o.AllowedBundleImages},
			bundles:  o.Bundles, enforcement: o.Enforcement, denials: r.denials, causes: causes, clock: o.Clock,
		},
		image: &imageStep{
			images: o.Images, machines: o.Machines, view: r.view, references: o.References,
			causes: causes, clock: o.Clock, defaultImage: o.DefaultImage,
		},
		wall: &wallStep{enforcement: o.Enforcement},
		machine: &machineStep{
			machines: o.Machines, view: r.view, starts: r.starts, images: o.Images, enforcement: o.Enforcement,
			exits: r.exits, requests: r.requests, events: r.events, causes: causes, clock: o.Clock,
			metrics: o.Metrics, reader: o.Client, broker: o.Broker, runtimes: o.Runtimes, stops: &r.stops, requirePolicy: o.RequireSmolvmPolicy,
		},
		proof: &proofStep{enforcement: o.Enforcement},
	}
	p.workload = &workloadStep{
		exchanges: o.Exchanges, machines: o.Machines, sessions: o.Sessions, reports: r.reports, stops: r.ends,
		requests: r.requests, machine: p.machine, clock: o.Clock,
	}
	p.machine.workload = p.workload
	p.bundle.broker = p.broker
	return p
}

// converge returns the steps towards a running Bottle. The pass writes the
// status once, after the last step that it reached.
func (p *steps) converge() []step {
	return []step{
		{Name: "adopt", Do: p.adopt.ensure},
		{Name: "room", Condition: v1alpha1.ConditionMachineReady, Do: p.admit},
		{Name: "network", Condition: v1alpha1.ConditionNetworkReady, Do: p.joinNetwork},
		{Name: "smolfile", Condition: v1alpha1.ConditionSmolfileReady, Do: p.smolfile.ensure},
		{Name: "broker", Condition: v1alpha1.ConditionBundleReady, Do: p.broker.ensure},
		{Name: "ahead", Do: p.ahead},
		{Name: "bundle", Condition: v1alpha1.ConditionBundleReady, Do: p.bundle.ensure},
		{Name: "image", Condition: v1alpha1.ConditionMachineReady, Do: p.image.ensure},
		{Name: "wall", Condition: v1alpha1.ConditionEgressEnforced, Do: p.wall.ensure},
		{Name: "machine", Condition: v1alpha1.ConditionMachineReady, Do: p.machine.ensure},
		{Name: "proof", Condition: v1alpha1.ConditionEgressEnforced, Do: p.proof.ensure},
	}
}

// admit waits until the node has room for the Bottle's machine. What a Bottle had booked
// was released when it finished.
func (p *steps) admit(ctx context.Context, s *scope) error {
	waiting := &flow.Waiting{Reason: v1alpha1.ReasonMachineStarting, Message: "the manager books CPUs, memory and disk space on the node again: see the Bottle's placeholder Pod"}
	switch workload.BookingOf(s.bottle, s.record) {
	case workload.Unbooked:
		return cmp.Or[error](p.machine.ensureDown(ctx, s), waiting)
	case workload.Unreported:
		waiting.After = immediately
		return waiting
	case workload.TooSmall:
		rec, end := workload.TooLarge(s.bottle, s.record)
		if waiting.Message = end.Message; s.phase == workload.FilesOpen {
			return waiting
		}
		s.record = rec
		return p.machine.endLost(s, end)
	}
	return p.room.Admit(ctx, s.bottle)
}

// joinNetwork is the network step. While the kubelet starts the Bottle's Pod, it already does
// the step ahead, with the subnet that the Bottle is expected to get. If the Bottle then gets
// another one, the machine step replaces the machine, which never ran.
func (p *steps) joinNetwork(ctx context.Context, s *scope) error {
	err := p.network.ensure(ctx, s)
	if s.runtime != bundleruntime.Pod || s.record != nil || flow.OutcomeOf(err).Reason != v1alpha1.ReasonPodStarting || len(desired.OpenRules(s.bottle)) > 0 {
		return err // the certificates of open rules come with the Pod
	}
	if p.network.expect(s) == nil && p.smolfile.ensure(ctx, s) == nil {
		_ = p.ahead(ctx, s) // what fails now is reported once it must succeed
	}
	return err
}

// ahead requests the image and starts to create a new machine, so that neither
// waits for the bundle. The steps image and machine report how that ended. If
// the user must correct the bundle first, the machine waits for the correction.
func (p *steps) ahead(ctx context.Context, s *scope) error {
	p.image.request(ctx, s)
	if _, _, err := p.bundle.spec(ctx, s); err != nil {
		return nil
	}
	return p.machine.createAhead(ctx, s)
}

// halt returns the steps towards a stopped Bottle. The machine comes first, so
// that no problem elsewhere keeps it running.
func (p *steps) halt() []step {
	return p.down(step{Name: "machine", Condition: v1alpha1.ConditionMachineReady, Do: p.machine.ensureDown})
}

// finished returns the steps towards a finished Bottle, whose machine is stopped by
// down. Nothing can start the machine before the wall is there again.
func (p *steps) finished(down func(context.Context, *scope) error) []step {
	return p.down(step{Name: "machine", Condition: v1alpha1.ConditionMachineReady, Do: down}, step{Name: "wall", Do: p.wall.delete})
}

// down returns the steps towards a Bottle whose machine is down.
func (p *steps) down(machine ...step) []step {
	return append(append([]step{{Name: "adopt", Do: p.adopt.ensure}}, machine...), []step{
		{Name: "bundle", Condition: v1alpha1.ConditionBundleReady, Do: p.bundle.ensureDown},
		{Name: "network", Condition: v1alpha1.ConditionNetworkReady, Do: p.network.ensureDown},
		{Name: "smolfile", Condition: v1alpha1.ConditionSmolfileReady, Do: p.smolfile.ensure},
	}...)
}

// teardown returns the steps that remove the Bottle from the node, in the exact
// reverse order of converge. They need only its identity.
func (p *steps) teardown() []step {
	return []step{
		{Name: "machine", Do: p.machine.delete},
		{Name: "wall", Do: p.wall.delete},
		{Name: "bundle", Do: p.bundle.delete},
		{Name: "network", Do: p.network.delete},
		{Name: "folder", Do: p.deleteFolders},
	}
}

// deleteFolders removes the Bottle's own folder last: it says what is left to remove.
func (p *steps) deleteFolders(ctx context.Context, s *scope) error {
	if err := p.workload.delete(ctx, s); err != nil {
		return err
	}
	defer p.network.runtimes.Forget(s.owner.UID)
	return s.folder.Remove()
}
