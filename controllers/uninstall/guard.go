// SPDX-License-Identifier: Apache-2.0

package uninstall

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// checkInterval is the default time between two checks whether the mark is still there.
// "kubectl replace", for example, removes it.
const checkInterval = 30 * time.Second

// The pauses after a failed pass.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// Guard keeps the mark in step with whether Bottles exist. Only one process of a cluster
// may run one: the leader of the managers.
type Guard struct {
	mark
	// Interval is the time between two checks whether the mark is still there.
	Interval time.Duration
	// cached reads Bottles from a cache.
	cached    client.Reader
	namespace string
	clock     clock.PassiveClock

	mu sync.Mutex
	// checked is when the mark was last seen; zero if it may be absent.
	checked time.Time
	// clean reports that this process found no Bottles and removed the mark.
	clean  bool
	logged []string // the missing policies that were logged
}

// New returns a Guard of the operator in a namespace.
func New(cached client.Client, live client.Reader, namespace string) *Guard {
	return &Guard{mark: mark{live: live, writer: cached}, cached: cached, namespace: namespace, clock: clock.RealClock{}, Interval: checkInterval}
}

// SetupWithManager adds the Guard to mgr, which must elect a leader if several run. Its
// cache must hold all Bottles.
func (g *Guard) SetupWithManager(mgr ctrl.Manager) error {
	begin := make(chan event.GenericEvent, 1)
	begin <- event.GenericEvent{Object: &v1alpha1.Bottle{}} // once, even if there are no Bottles
	one := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return make([]reconcile.Request, 1) })
	err := ctrl.NewControllerManagedBy(mgr).Named("uninstall").
		Watches(&v1alpha1.Bottle{}, one).
		WatchesRawSource(source.Channel(begin, one)).
		WithEventFilter(predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }}).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 1,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
		}).
		Complete(g)
	if err != nil {
		return fmt.Errorf("set up the uninstall guard: %w", err)
	}
	return nil
}

// Hold returns nil once the mark is there. Call it before a Bottle is placed. It reads
// from the API server only if the mark may be absent.
func (g *Guard) Hold(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.checked.IsZero() {
		return nil
	}
	return g.set(ctx)
}

// set sets the mark; g.mu is held.
func (g *Guard) set(ctx context.Context) error {
	g.clean = false
	missing, err := g.mark.set(ctx, g.namespace)
	if err != nil {
		g.checked = time.Time{}
		return fmt.Errorf("mark that Bottles exist: %w", err)
	}
	g.checked = g.clock.Now()
	if len(missing) > 0 && !slices.Equal(missing, g.logged) {
		logf.FromContext(ctx).Info("Admission policies of the operator are missing or being deleted: apply config/policy, or the chart, again",
			"policies", strings.Join(missing, ", "))
	}
	g.logged = missing
	return nil
}

// Reconcile sets the mark if there are Bottles, and otherwise removes it.
func (g *Guard) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	list := &v1alpha1.BottleList{}
	if err := g.cached.List(ctx, list, client.Limit(1)); err != nil {
		return ctrl.Result{}, fmt.Errorf("list Bottles: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(list.Items) == 0 {
		if g.clean {
			return ctrl.Result{}, nil
		}
		g.checked = time.Time{}
		cleared, err := g.clear(ctx)
		g.clean = cleared && err == nil
		if !cleared && err == nil {
			return ctrl.Result{RequeueAfter: time.Second}, nil // the cache lags behind
		}
		return ctrl.Result{}, err
	}
	if age := g.clock.Since(g.checked); age < g.Interval {
		return ctrl.Result{RequeueAfter: g.Interval - age}, nil
	}
	return ctrl.Result{RequeueAfter: g.Interval}, g.set(ctx)
}
