// SPDX-License-Identifier: Apache-2.0

// Package broker gives bundles the new values when a Secret or the rules of a Bottle
// change. It does so within milliseconds, even while a pass of controllers/bottle is
// waiting for something else. It writes no status.
package broker

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/passes"
)

const (
	// workers is how many Bottles are worked on in parallel.
	workers = 8
	// A change that could not be applied is retried soon, however often it has failed:
	// until then the bundle keeps what the change takes away.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
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
	b := &v1alpha1.Bottle{}
	if err := r.client.Get(ctx, req.NamespacedName, b); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if ptr.Deref(b.Status.NodeName, "") != r.node {
		return ctrl.Result{}, nil
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
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		}).
		Complete(r)
}
