// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/narrow"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/jobs"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// References are the Secrets and ConfigMaps that Bottles name.
type References interface {
	// Use makes refs all that user names.
	Use(user types.NamespacedName, refs []namedwatch.Ref)
	// Get returns the data of a named object: namedwatch.ErrNotFound when it
	// is not there, namedwatch.ErrNotYet when that is not known yet.
	Get(ctx context.Context, ref namedwatch.Ref) (map[string][]byte, error)
}

// Enforcement is *enforce.Enforcer.
type Enforcement interface {
	enforce.Enforcement
	// Subscribe sets who is notified of what happened to a Bottle.
	Subscribe(changed func(uid string))
	// BindProofs makes proofs end with ctx, WaitProofs waits for all of them,
	// and CancelProof ends one.
	BindProofs(ctx context.Context)
	WaitProofs()
	CancelProof(ctx context.Context, uid string) error
	// ReportRefusals reports until ctx ends what guests were refused.
	ReportRefusals(ctx context.Context, report func(owner host.Owner, destinations string)) error
}

// Options are what a Reconciler stands on. All are required but where said.
type Options struct {
	// Node is the name of this node, Cluster the UID of kube-system.
	Node, Cluster string
	// Client reads this node's Bottles from a cache, and writes.
	Client client.Client
	// Recorder takes Events.
	Recorder events.EventRecorder
	// References reads Secrets and ConfigMaps.
	References References

	Networks host.Networks
	Bundles  host.Bundles
	Machines host.Machines
	Facts    Facts
	Walls    host.Walls
	// Enforcement keeps the machines behind their walls, and proves it.
	Enforcement Enforcement
	// RequireSmolvmPolicy starts no machine of which smolvm does not show
	// exactly the one allowed address.
	RequireSmolvmPolicy bool
	// RequireProof lets no Bottle be Ready of which no proof can be made.
	RequireProof bool

	State  *state.Dir
	Images host.Images
	Pool   *subnet.Pool
	Clock  clock.WithTicker
	// Metrics may be nil.
	Metrics *Metrics

	// DefaultImage is what Bottles get that name none; empty: a bare machine.
	DefaultImage string
	// AllowedBundleImages are globs (path.Match) for spec.bundle.image.
	AllowedBundleImages []string
	// MachinePollInterval is the time between two lists of machines.
	MachinePollInterval time.Duration
	// MaxConcurrentStarts bounds the boots that are under way at once.
	MaxConcurrentStarts int
}

// Reconciler reconciles the Bottles of one node.
type Reconciler struct {
	Options
	view    *machineview.View
	starts  *jobs.Set[error]
	follows *follows
	// narrower is a controller of its own.
	narrower *narrow.Reconciler

	bottles registry
	orphans orphans

	mu      sync.Mutex
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
	watched map[string]state.Run               // VMMs whose end is watched, by UID
	watches context.Context                    // of the watches of VMMs, which outlive a pass
	left    map[types.NamespacedName]types.UID // deleted Bottles that the cache may still show
}

// resync is when a Bottle that is as it should be is looked at again, give or
// take a tenth.
const resync = 10 * time.Minute

// workers is how many Bottles are worked on at once. Boots do not count.
const workers = 8

// New is a Reconciler that is not yet part of a manager.
func New(o Options) *Reconciler {
	r := &Reconciler{
		Options: o,
		starts:  jobs.New[error]("machine start", o.MaxConcurrentStarts),
		follows: newFollows(),
		watched: map[string]state.Run{},
		watches: context.Background(),
		left:    map[types.NamespacedName]types.UID{},
	}
	r.view = machineview.New(o.Machines, o.Clock, o.MachinePollInterval, r.enqueueMachine)
	r.narrower = &narrow.Reconciler{Client: o.Client, Node: o.Node, Owner: r.ownerOf, Enforcement: o.Enforcement, Machines: o.Machines, Starts: r.starts}
	o.Facts.OnChange(r.enqueueAll)
	o.Enforcement.Subscribe(r.enforced)
	return r
}

// Reconcile removes the orphans of the request's name, and then makes one pass
// over the Bottle of this name.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	r.teardownOrphans(ctx, req.NamespacedName)
	if req.Namespace == "" {
		return ctrl.Result{}, nil // the key of an orphan without a name
	}
	b := &v1alpha1.Bottle{}
	if err := r.Client.Get(ctx, req.NamespacedName, b); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(r.left, req.NamespacedName)
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
	return r.stay(ctx, s)
}

// stay is a pass over a Bottle that belongs here.
func (r *Reconciler) stay(ctx context.Context, s *scope) (ctrl.Result, error) {
	steps := r.converge()
	if desired.Stopped(s.bottle) {
		steps = r.halt()
	}
	err := flow.Run(ctx, s, steps, s.recordOutcome)
	if ctx.Err() != nil {
		return ctrl.Result{}, context.Cause(ctx)
	}
	if errors.Is(err, errSuperseded) || errors.Is(err, enforce.ErrSuperseded) {
		return ctrl.Result{RequeueAfter: atOnce}, nil
	}
	if first := s.outcomes[0]; first.Condition == "" && first.Outcome.Kind != flow.KindDone {
		// Nothing was found out about the Bottle's parts.
		return r.result(err)
	}
	conditions, observed := agentstatus.Conditions(s.statusInput(), r.Clock.Now())
	if observed {
		s.status.ObservedGeneration = ptr.To(s.bottle.Generation)
	}
	if werr := r.writeStatus(ctx, s, conditions); werr != nil {
		return conflicted(werr)
	}
	res, err := r.result(err)
	if err == nil && s.lookAgain > 0 && (res.RequeueAfter == 0 || s.lookAgain < res.RequeueAfter) {
		res.RequeueAfter = s.lookAgain
	}
	return res, err
}

// result is what a pass's outcome means for the next one.
func (r *Reconciler) result(err error) (ctrl.Result, error) {
	switch o := flow.OutcomeOf(err); o.Kind {
	case flow.KindDone:
		return ctrl.Result{RequeueAfter: jitter(resync)}, nil
	case flow.KindWait:
		if o.After > 0 {
			return ctrl.Result{RequeueAfter: o.After}, nil
		}
		return ctrl.Result{RequeueAfter: jitter(resync)}, nil
	case flow.KindTerminal, flow.KindBlocked:
		return ctrl.Result{}, nil
	default:
		return conflicted(err)
	}
}

// conflicted takes a write that met a newer object for what it is: the pass
// looked at an old one and is made again as soon as the new one is there.
func conflicted(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: 50 * time.Millisecond}, nil
	}
	return ctrl.Result{}, err
}

// errSuperseded ends a pass over a Bottle that has changed since the pass read
// it, before the pass does what the change may forbid.
var errSuperseded = errors.New("the Bottle changed during the pass")

// current returns errSuperseded if the Bottle is not as the pass read it.
func (r *Reconciler) current(ctx context.Context, s *scope) error {
	now := &v1alpha1.Bottle{}
	if err := r.Client.Get(ctx, s.key(), now); err != nil {
		return client.IgnoreNotFound(err)
	}
	if now.UID == s.bottle.UID && (now.Generation != s.bottle.Generation || desired.Leaving(now) != desired.Leaving(s.bottle)) {
		return errSuperseded
	}
	return nil
}

func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// forget drops what is kept for a Bottle that is not, or no longer, here.
func (r *Reconciler) forget(k types.NamespacedName) {
	r.References.Use(k, nil)
	uids := r.bottles.Forget(k)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, uid := range uids {
		delete(r.watched, uid)
	}
}

// enforced requeues a Bottle to whose wall, machine or proof something happened.
func (r *Reconciler) enforced(uid string) {
	if name, ok := r.bottles.Machine(uid); ok {
		r.view.Invalidate(name)
	}
	r.enqueueUID(uid)
}

// Enqueue requests a pass over the Bottle.
func (r *Reconciler) Enqueue(k types.NamespacedName) {
	r.mu.Lock()
	q := r.queue
	r.mu.Unlock()
	if q != nil {
		q.Add(reconcile.Request{NamespacedName: k})
	}
}

// enqueueMachine requests a pass over the Bottle whose machine has the name.
func (r *Reconciler) enqueueMachine(name string) {
	if k, ok := r.bottles.KeyOfMachine(name); ok {
		r.Enqueue(k)
	}
}

// enqueueUID requests a pass over the Bottle with the UID, or over all for "".
func (r *Reconciler) enqueueUID(uid string) {
	if uid == "" {
		r.enqueueAll()
		return
	}
	if k, ok := r.bottles.Key(uid); ok {
		r.Enqueue(k)
	}
}

func (r *Reconciler) enqueueAll() {
	for _, k := range r.bottles.All() {
		r.Enqueue(k)
	}
}

func (r *Reconciler) event(s *scope, kind, reason, message string) {
	r.Recorder.Eventf(s.bottle, nil, kind, reason, "Reconcile", "%s", message)
}

func (r *Reconciler) warn(ctx context.Context, s *scope, reason, message string) {
	logf.FromContext(ctx).Info("Something happened to the Bottle", "reason", reason, "message", message)
	r.event(s, corev1.EventTypeWarning, reason, message)
}
