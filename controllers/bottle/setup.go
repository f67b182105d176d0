// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
)

// SetupWithManager makes the Reconciler and what it needs around it part of
// mgr, whose cache holds this node's Bottles.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	// Runs before the first pass, with the context of the agent's life.
	queue := source.Func(func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		r.starts.Bind(ctx)
		r.Enforcement.BindProofs(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.queue, r.watches = q, ctx
		return nil
	})
	err := ctrl.NewControllerManagedBy(mgr).Named("bottle").
		For(&v1alpha1.Bottle{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: desired.Changed}).
		WatchesRawSource(queue).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return err
	}
	if err := r.narrower.SetupWithManager(mgr); err != nil {
		return err
	}
	for _, f := range []manager.RunnableFunc{r.begin, r.view.Start, r.watchBundles, r.watchImages, r.reportRefusals} {
		if err := mgr.Add(f); err != nil {
			return err
		}
	}
	return nil
}

// begin waits, when the agent ends, for the jobs that are under way.
func (r *Reconciler) begin(ctx context.Context) error {
	r.sayVersion(ctx)
	<-ctx.Done()
	r.starts.Wait()
	r.Enforcement.WaitProofs()
	return nil
}

// watchBundles has a Bottle looked at when docker says that its container or
// network changed.
func (r *Reconciler) watchBundles(ctx context.Context) error {
	for ctx.Err() == nil {
		err := r.Bundles.WatchBundles(ctx, r.enqueueUID)
		if ctx.Err() != nil {
			break
		}
		logf.FromContext(ctx).Error(err, "The watch of docker ended and is begun again")
		select {
		case <-ctx.Done():
		case <-r.Clock.After(forNode):
		}
	}
	return nil
}

// sayVersion says once that this smolvm is newer than what was measured.
func (r *Reconciler) sayVersion(ctx context.Context) {
	v, err := r.Machines.Version(ctx)
	if err != nil || !v.Newer {
		return
	}
	logf.FromContext(ctx).Info("This smolvm is newer than any that was measured", "version", v.Version)
	node := &corev1.Node{}
	node.Name = r.Node
	r.Recorder.Eventf(node, nil, corev1.EventTypeWarning, eventNewerSmolvm, "Fingerprint",
		"smolvm %s is newer than any that was measured: bottles run, watch them", v.Version)
}
