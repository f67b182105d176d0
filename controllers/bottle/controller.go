// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/narrow"
	"botbottle.dev/bottle-operator/internal/agentmetrics"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/bottleevents"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/denials"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/exits"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/jobs"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/passes"
	"botbottle.dev/bottle-operator/internal/reports"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/internal/workload"
)

// Enforcement is implemented by *enforce.Enforcer.
type Enforcement interface {
	enforce.Enforcement
	// Subscribe sets the callback for changes to a Bottle's wall, machine or proof.
	Subscribe(changed func(uid string))
	// BindProofs makes proofs end with ctx, WaitProofs waits for all of them,
	// and CancelProof cancels one.
	BindProofs(ctx context.Context)
	WaitProofs()
	CancelProof(ctx context.Context, uid string) error
	// ReportRefusals reports the destinations that guests were refused, until ctx ends.
	ReportRefusals(ctx context.Context, report func(owner host.Owner, destinations string)) error
}

// Runtimes is implemented by *bundleruntime.Runtimes.
type Runtimes interface {
	// Of returns the runtime of a Bottle's bundle, "" if none was chosen yet. OfBottle also
	// looks into the status. Choose chooses one if there is none. Forget drops what is known
	// about a Bottle that left the node.
	Of(uid string) (bundleruntime.Kind, error)
	OfBottle(b *v1alpha1.Bottle) (bundleruntime.Kind, error)
	Choose(ctx context.Context, b *v1alpha1.Bottle) (bundleruntime.Kind, error)
	Forget(uid string)
	// BundleOf returns desired.BundleDigest of what the Bottle's Pod was made for.
	BundleOf(uid string) string
	// PodOf returns the UID of the Bottle's Pod, "" if it has none.
	PodOf(uid string) string
	// StartedIn returns the UID of the Pod in which the machine was last started; "" if that
	// is not known.
	StartedIn(uid string) string
	// TakeReplaced reports whether the Pod got another network namespace since the last
	// call.
	TakeReplaced(uid string) (bool, error)
}

// Options of a Reconciler. All are required unless the comment says otherwise.
type Options struct {
	// Node is the name of this node, Cluster the UID of kube-system.
	Node, Cluster string
	// Client reads this node's Bottles from a cache, and writes them.
	Client client.Client
	// Recorder records Events.
	Recorder events.EventRecorder
	// References knows the Secrets and ConfigMaps that Bottles name.
	References envsource.Reader

	Runtimes Runtimes
	Networks host.Networks
	Bundles  host.Bundles
	Machines host.Machines
	Facts    outcome.Facts
	Walls    host.Walls
	// Enforcement maintains the walls and proves that they hold.
	Enforcement  Enforcement
	Surroundings Surroundings
	// RequireSmolvmPolicy: a machine is started only if smolvm shows exactly
	// the one allowed address for it.
	RequireSmolvmPolicy bool
	// RequireProof: a Bottle is not Ready if no proof can be made for it.
	RequireProof bool

	State  *state.Dir
	Images host.Images
	// Exchanges manages the folders that the agent shares with guests.
	Exchanges host.Exchanges
	// Broker serves the built-in bundles.
	Broker *broker.Broker
	// UpstreamCA returns authorities, in PEM, that bundles accept for upstreams beside
	// the public ones, or nil.
	UpstreamCA func() []byte
	// Sessions may be nil.
	Sessions Sessions
	Pool     *subnet.Pool
	Clock    clock.WithTicker
	// Metrics may be nil.
	Metrics *agentmetrics.Metrics

	// DefaultImage is for Bottles that name no image; "" means a bare machine.
	DefaultImage string
	// AllowedBundleImages are globs (path.Match) for spec.bundle.image.
	AllowedBundleImages []string
	// MachinePollInterval is the time between two polls of the list of machines.
	MachinePollInterval time.Duration
	// FirstReportDelay is how long the first report on a Bottle waits for its
	// machine to boot: if that is quick, one write reports both.
	FirstReportDelay time.Duration
	// MaxConcurrentStarts bounds the number of boots that run in parallel.
	MaxConcurrentStarts int
}

// Reconciler reconciles the Bottles of one node.
type Reconciler struct {
	Options
	steps    steps
	status   *statusWriter
	events   *reporter
	bottles  *passes.Registry
	requests *passes.Requests
	view     *machineview.View
	starts   *jobs.Set[error]
	ends     *jobs.Set[error] // of workloads
	reports  *reports.Watch
	denials  *denials.Follower
	exits    *exits.Watch
	orphans  passes.Orphans
	departed passes.Departed
	// reach and halt are separate controllers; stops records what halt stopped.
	reach *narrow.Reach
	halt  *narrow.Halt
	stops narrow.Stops
}

// maxConcurrentEnds is how many workloads are asked to end in parallel. Each takes up to
// its grace period.
const maxConcurrentEnds = 64

// workers is how many passes run in parallel. Boots do not count.
const workers = 8

// New returns a Reconciler that is not yet part of a manager.
func New(o Options) *Reconciler {
	r := &Reconciler{Options: o, bottles: &passes.Registry{}, starts: jobs.New[error]("machine start", o.MaxConcurrentStarts, o.Clock)}
	r.requests = passes.NewRequests(r.bottles)
	r.ends = jobs.New[error]("end of a workload", maxConcurrentEnds, o.Clock)
	r.reports = reports.New(o.Exchanges, o.Clock, r.requests.ContinueUID)
	r.events = &reporter{bottleevents.Reporter{Recorder: o.Recorder, Reader: o.Client, Node: o.Node}}
	r.status = &statusWriter{client: o.Client, events: r.events, starts: r.starts, clock: o.Clock}
	r.view = machineview.New(o.Machines, o.Clock, o.MachinePollInterval, r.requests.EnqueueMachine)
	r.denials = denials.New(denials.Options{Bundles: o.Bundles, Clock: o.Clock, Decided: o.Metrics.Decision, Refused: r.events.Denied, Changed: r.requests.EnqueueUID})
	r.exits = exits.New(o.Machines, r.view, r.requests)
	here := narrow.Bottles{Client: o.Client, Node: o.Node, Owner: r.ownerOf}
	r.reach = &narrow.Reach{Bottles: here, Enforcement: o.Enforcement, BundleStays: func(uid string) bool {
		kind, err := o.Runtimes.Of(uid)
		return err == nil && kind == bundleruntime.Pod
	}}
	r.halt = &narrow.Halt{Bottles: here, Machines: o.Machines, View: r.view, Starts: r.starts, Stops: &r.stops}
	r.steps = r.newSteps()
	o.Facts.OnChange(r.requests.EnqueueAll)
	o.Enforcement.Subscribe(r.enforcementChanged)
	o.Surroundings.Subscribe(r.requests.EnqueueUID)
	return r
}

// Reconcile removes the orphans with the name in the request, and then makes
// one pass over the Bottle with that name.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	r.teardownOrphans(ctx, req.NamespacedName)
	if req.Namespace == "" {
		return ctrl.Result{}, nil // the key of an orphan without a name
	}
	b := &v1alpha1.Bottle{}
	if err := r.Client.Get(ctx, req.NamespacedName, b); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
			r.departed.Forget(req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("read bottle %s: %w", req, err)
	}
	if ptr.Deref(b.Status.NodeName, "") != r.Node {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	s, err := r.newScope(b)
	if err != nil {
		return ctrl.Result{}, err
	}
	r.bottles.Remember(s.owner)
	if desired.Leaving(b) {
		return r.leave(ctx, s)
	}
	return r.converge(ctx, s)
}

// converge makes a pass over a Bottle that stays on this node.
func (r *Reconciler) converge(ctx context.Context, s *scope) (ctrl.Result, error) {
	if err := r.steps.workload.observe(ctx, s); err != nil {
		return ctrl.Result{}, err
	}
	err := flow.Run(ctx, s, r.steps.forPhase(s), s.recordOutcome)
	_ = s.created() // the pass may have ended before the machine step, which reports the error
	if ctx.Err() != nil {
		return ctrl.Result{}, context.Cause(ctx)
	}
	if errors.Is(err, errSuperseded) || errors.Is(err, enforce.ErrSuperseded) {
		return ctrl.Result{RequeueAfter: immediately}, nil
	}
	if first := s.outcomes[0]; errors.Is(err, host.ErrRestarting) || first.Condition == "" && first.Outcome.Kind != flow.KindDone {
		// What was reported stays, or the pass ended before it observed any part of the Bottle.
		return passes.Result(err)
	}
	if wait := r.status.wait(s, err, r.FirstReportDelay); wait > 0 {
		return passes.ResultWithin(err, wait)
	}
	if agentstatus.WorkloadWaits(s.bottle, err) && !workload.Ended(s.work) {
		s.status.Workload = nil
	}
	conditions, observed := agentstatus.Conditions(s.statusInput(), r.Clock.Now())
	if observed {
		s.status.ObservedGeneration = ptr.To(s.bottle.Generation)
	}
	if werr := r.status.write(ctx, s, conditions); werr != nil {
		return passes.RetryConflict(werr)
	}
	return passes.ResultWithin(err, s.requeueAfter)
}

// Enqueue requests a pass over the Bottle.
func (r *Reconciler) Enqueue(k types.NamespacedName) { r.requests.Enqueue(k) }

// forget drops what is kept for a Bottle that is not on this node.
func (r *Reconciler) forget(k types.NamespacedName) {
	r.status.written.Forget(k)
	uids := r.bottles.Forget(k)
	r.exits.Forget(uids...)
	r.reports.Forget(uids...)
}

// enforcementChanged requests a pass after a change to a wall, machine or proof.
// If a machine was killed, recordBreach or the watch of its exit invalidates what
// is cached about it; a proof alone changes nothing that smolvm lists.
func (r *Reconciler) enforcementChanged(uid string) { r.requests.ContinueUID(uid) }
