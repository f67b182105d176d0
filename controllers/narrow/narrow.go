// SPDX-License-Identifier: Apache-2.0

// Package narrow applies at once, with workers of its own, whatever a change of
// a Bottle takes away from its guest. It adds nothing, and writes no status:
// that is left to the passes of controllers/bottle.
package narrow

import (
	"context"
	"fmt"
	"time"

	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
)

// What a Reconciler needs of others.
type (
	// ReachNarrower is the part of enforce.Enforcement that narrows.
	ReachNarrower interface {
		Narrow(ctx context.Context, owner host.Owner, reach enforce.Reach) error
	}
	// MachineStopper is the part of host.Machines that stops.
	MachineStopper interface {
		VMMs(ctx context.Context, names []string) ([]host.VMM, error)
		StopMachine(ctx context.Context, name string) error
		KillMachine(ctx context.Context, name string) error
	}
	// StartCanceler holds the starts of machines that are under way.
	StartCanceler interface {
		Cancel(ctx context.Context, uid string) error
	}
)

// Reconciler applies at once whatever a change of a Bottle takes away from its
// guest: egress rules, ports of the bundle, and the machine itself. It is a
// controller of its own, with workers of its own, because a pass over the
// Bottle, or over another one, may be waiting for dockerd, for a Secret or for
// an image. What a change adds is left to the passes.
type Reconciler struct {
	Client client.Reader
	// Node is this node's name; Bottles of others are left alone.
	Node string
	// Owner returns the identity of a Bottle on this node.
	Owner       func(*v1alpha1.Bottle) host.Owner
	Enforcement ReachNarrower
	Machines    MachineStopper
	Starts      StartCanceler
}

// workers is how many Bottles are narrowed in parallel.
const workers = 8

// stopPatience is how long smolvm may take to let a guest shut down, before
// its machine is killed.
const stopPatience = 30 * time.Second

// Reconcile narrows what one Bottle may reach to what its spec says now.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	b := &v1alpha1.Bottle{}
	if err := r.Client.Get(ctx, req.NamespacedName, b); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if ptr.Deref(b.Status.NodeName, "") != r.Node {
		return ctrl.Result{}, nil
	}
	if desired.Leaving(b) || desired.Stopped(b) {
		return ctrl.Result{}, r.stop(ctx, r.Owner(b))
	}
	// A rule that cannot be understood allows nothing. The bundle step says so.
	rules, _ := desired.EgressRules(b)
	reach := enforce.Reach{Generation: b.Generation, Ports: desired.BundlePorts(b), Rules: rules}
	if err := r.Enforcement.Narrow(ctx, r.Owner(b), reach); err != nil {
		return ctrl.Result{}, fmt.Errorf("narrow what bottle %s may reach: %w", req, err)
	}
	return ctrl.Result{}, nil
}

// stop ends the Bottle's machine: by smolvm, which lets the guest shut down,
// and if that fails or takes too long, by a kill.
func (r *Reconciler) stop(ctx context.Context, owner host.Owner) error {
	name := owner.ID()
	if err := r.Starts.Cancel(ctx, owner.UID); err != nil {
		return err
	}
	vmms, err := r.Machines.VMMs(ctx, []string{name})
	if err == nil && len(vmms) == 0 {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if err := r.Machines.StopMachine(bounded, name); err != nil {
		logf.FromContext(ctx).Info("The machine could not be stopped and is killed", "machine", name, "error", err.Error())
		return r.Machines.KillMachine(ctx, name)
	}
	return nil
}

// SetupWithManager adds the controller to mgr, whose cache holds this node's
// Bottles.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("bottle-narrow").
		For(&v1alpha1.Bottle{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: desired.Changed}).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
}
