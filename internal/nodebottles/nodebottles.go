// SPDX-License-Identifier: Apache-2.0

// Package nodebottles has the code that is shared by the agent's controllers that apply a
// change of a Bottle immediately. It changes nothing itself.
package nodebottles

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const (
	// workers is how many Bottles each controller works on in parallel.
	workers = 8
	// A change that could not be applied is retried soon, however often it has
	// failed: until then the guest keeps what the change takes away.
	firstRetry, lastRetry = 100 * time.Millisecond, 5 * time.Second
)

// Get returns the Bottle, or nil if it does not exist or is not on the node.
func Get(ctx context.Context, c client.Reader, k types.NamespacedName, node string) (*v1alpha1.Bottle, error) {
	b := &v1alpha1.Bottle{}
	if err := c.Get(ctx, k, b); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if ptr.Deref(b.Status.NodeName, "") != node {
		return nil, nil
	}
	return b, nil
}

// Options returns the options of a controller that applies changes immediately.
func Options() controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: workers,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
	}
}
