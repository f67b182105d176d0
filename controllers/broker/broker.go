// SPDX-License-Identifier: Apache-2.0

// Package broker gives bundles the new values when a Secret or the rules of a Bottle
// change. It does so within milliseconds, even while a pass of controllers/bottle is
// waiting for something else. It writes no status.
package broker

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/nodebottles"
	"botbottle.dev/bottle-operator/internal/passes"
)

// Reconciler updates what the bundles of one node have.
type Reconciler struct {
	client   client.Reader
	node     string
	broker   *broker.Broker
	requests *passes.Requests
}

// New returns a Reconciler for the Bottles of the node, which the client reads from a
// cache.
func New(c client.Reader, node string, b *broker.Broker) *Reconciler {
	return &Reconciler{client: c, node: node, broker: b, requests: passes.NewRequests(&passes.Registry{})}
}

// Enqueue requests an update of the Bottle's bundle.
func (r *Reconciler) Enqueue(k types.NamespacedName) { r.requests.Enqueue(k) }

// Reconcile updates what the bundle of one Bottle has.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	b, err := nodebottles.Get(ctx, r.client, req.NamespacedName, r.node)
	if err != nil || b == nil {
		return ctrl.Result{}, err
	}
	if err := r.broker.Update(ctx, b); err != nil {
		return ctrl.Result{}, fmt.Errorf("update what the bundle of %s has: %w", req, err)
	}
	return ctrl.Result{}, nil
}

// SetupWithManager adds the controller to mgr. The cache of mgr must hold this node's
// Bottles.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	queue := source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		r.requests.Bind(q)
		return nil
	})
	return ctrl.NewControllerManagedBy(mgr).Named("bottle-broker").
		For(&v1alpha1.Bottle{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: desired.Changed}).
		WatchesRawSource(queue).
		WithOptions(nodebottles.Options()).
		Complete(r)
}
