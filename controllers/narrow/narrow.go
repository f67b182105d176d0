// SPDX-License-Identifier: Apache-2.0

// Package narrow immediately applies every change to a Bottle that takes
// something away from its guest. It adds nothing and writes no status. That is
// left to the passes of controllers/bottle, which may be waiting for dockerd,
// for a Secret or for an image.
//
// It has two controllers, Reach and Halt, with separate workers: stopping a
// machine takes seconds, and closing a port or removing a rule must not wait
// for that.
package narrow

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/nodebottles"
)

// Bottles reads the Bottles of one node.
type Bottles struct {
	Client client.Reader
	// Node is this node's name. Bottles of other nodes are ignored.
	Node string
	// Owner returns the identity of a Bottle on this node.
	Owner func(*v1alpha1.Bottle) host.Owner
}

// get returns the Bottle, or nil if it is not on this node.
func (r Bottles) get(ctx context.Context, k types.NamespacedName) (*v1alpha1.Bottle, error) {
	return nodebottles.Get(ctx, r.Client, k, r.Node)
}

// Reach narrows the egress rules and the bundle's ports.
type Reach struct {
	Bottles
	Enforcement interface {
		// Narrow is the method of enforce.Enforcement.
		Narrow(ctx context.Context, owner host.Owner, reach enforce.Reach) error
	}
	// BundleStays reports whether a Bottle's bundle is replaced only when its machine is
	// down. It must not wait.
	BundleStays func(uid string) bool
}

// Reconcile narrows what one Bottle may reach according to its current spec. It
// needs only the kernel and the state directory.
func (r *Reach) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	b, err := r.get(ctx, req.NamespacedName)
	if err != nil || b == nil {
		return ctrl.Result{}, err
	}
	// An invalid rule allows nothing. The bundle step reports it.
	rules, _ := desired.EgressRules(b)
	reach := enforce.Reach{Generation: b.Generation, Ports: desired.BundlePorts(b), Rules: rules, BundleImage: desired.BundleImage(b),
		BundleStays: r.BundleStays(string(b.UID))}
	if err := r.Enforcement.Narrow(ctx, r.Owner(b), reach); err != nil {
		return ctrl.Result{}, fmt.Errorf("narrow what bottle %s may reach: %w", req, err)
	}
	return ctrl.Result{}, nil
}

// reachWorkers is how many Bottles Reach works on in parallel. A worker whose Bottle waits for
// the disk is lost to all others until the disk answers, so there is one for each Bottle that
// an agent has by default.
const reachWorkers = 250

// SetupWithManager adds the controller to mgr. The cache of mgr must hold this
// node's Bottles.
func (r *Reach) SetupWithManager(mgr ctrl.Manager) error {
	o := nodebottles.Options()
	o.MaxConcurrentReconciles = reachWorkers
	return setup(mgr, "bottle-reach", r, o)
}

func setup(mgr ctrl.Manager, name string, r reconcile.Reconciler, o controller.Options) error {
	return ctrl.NewControllerManagedBy(mgr).Named(name).
		For(&v1alpha1.Bottle{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: desired.Changed}).
		WithOptions(o).
		Complete(r)
}
