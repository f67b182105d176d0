// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/passes"
)

// SetupWithManager adds the Reconciler, its watches and the controllers of
// package narrow to mgr. The cache of mgr must hold this node's Bottles.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	// This function runs before the first pass. Its context ends with the agent.
	queue := source.Func(func(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		r.starts.Bind(ctx)
		r.ends.Bind(ctx)
		r.denials.Bind(ctx)
		r.exits.Bind(ctx)
		r.Enforcement.BindProofs(ctx)
		r.requests.Bind(q)
		return nil
	})
	err := ctrl.NewControllerManagedBy(mgr).Named("bottle").
		For(&v1alpha1.Bottle{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: desired.Changed}).
		WatchesRawSource(queue).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(withOrdinaryPriority(r))
	if err != nil {
		return err
	}
	if err := errors.Join(r.reach.SetupWithManager(mgr), r.halt.SetupWithManager(mgr)); err != nil {
		return err
	}
	for _, f := range []manager.RunnableFunc{r.waitForJobs, r.view.Start, r.reports.Start, r.watchBundles, r.watchImages, r.watchRefusals} {
		if err := mgr.Add(f); err != nil {
			return err
		}
	}
	return nil
}

// withOrdinaryPriority gives what a pass requests for later the ordinary priority.
// The queue would otherwise keep that of a pass that continued after a job, and
// the Bottle would come before new ones forever.
func withOrdinaryPriority(r reconcile.Reconciler) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		result, err := r.Reconcile(ctx, req)
		result.Priority = ptr.To(passes.OrdinaryPriority)
		return result, err
	})
}

// waitForJobs waits until the agent stops, and then for the remaining jobs.
func (r *Reconciler) waitForJobs(ctx context.Context) error {
	r.reportNewerSmolvm(ctx)
	<-ctx.Done()
	r.starts.Wait()
	r.ends.Wait()
	r.Enforcement.WaitProofs()
	return nil
}

// watchBundles requests a pass when a Bottle's container or network changes.
func (r *Reconciler) watchBundles(ctx context.Context) error {
	for ctx.Err() == nil {
		err := r.Bundles.WatchBundles(ctx, r.requests.EnqueueUID)
		if ctx.Err() != nil {
			break
		}
		logf.FromContext(ctx).Error(err, "The watch of the bundles ended and is restarted")
		select {
		case <-ctx.Done():
		case <-r.Clock.After(nodeDelay):
		}
	}
	return nil
}

// watchImages requests a pass when the pull of a Bottle's image has ended.
func (r *Reconciler) watchImages(ctx context.Context) error {
	err := r.Images.WatchImages(ctx, r.requests.EnqueueUID)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// watchRefusals records an Event when a guest was refused a destination.
func (r *Reconciler) watchRefusals(ctx context.Context) error {
	return r.Enforcement.ReportRefusals(ctx, func(owner host.Owner, destinations string) { r.events.Refused(ctx, owner, destinations) })
}

// ImageEvent records an Event about a Bottle's image. It does not block.
func (r *Reconciler) ImageEvent(uid, reason, message string) {
	if k, ok := r.bottles.Key(uid); ok {
		r.events.Image(k, uid, reason, message)
	}
}

// reportNewerSmolvm reports once if smolvm is newer than any tested version.
func (r *Reconciler) reportNewerSmolvm(ctx context.Context) {
	if v, err := r.Machines.Version(ctx); err == nil && v.Newer {
		r.events.NewerSmolvm(ctx, v)
	}
}
