// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
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
		WithEventFilter(predicate.Funcs{UpdateFunc: news}).
		WatchesRawSource(queue).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(mgr).Named("bottle-narrow").
		For(&v1alpha1.Bottle{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: news}).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r.narrower)
	if err != nil {
		return err
	}
	for _, f := range []manager.RunnableFunc{r.begin, r.view.Start, r.watchBundles, r.watchImages, r.reportRefusals} {
		if err := mgr.Add(f); err != nil {
			return err
		}
	}
	return nil
}

// news leaves out the agent's own writes to the status.
func news(e event.UpdateEvent) bool {
	before, ok1 := e.ObjectOld.(*v1alpha1.Bottle)
	after, ok2 := e.ObjectNew.(*v1alpha1.Bottle)
	return !ok1 || !ok2 || othersOf(before) != othersOf(after)
}

// others is what somebody else than the agent writes to a Bottle.
type others struct {
	generation                           int64
	deleting, finalizer, scheduled, lost bool
	restartedAt, recreatedAt, prove      string
	scheduledReason, nodeName, memory    string
	cpus                                 int32
}

func othersOf(b *v1alpha1.Bottle) others {
	o := others{
		generation:  b.Generation,
		deleting:    !b.DeletionTimestamp.IsZero(),
		finalizer:   controllerutil.ContainsFinalizer(b, v1alpha1.FinalizerNode),
		restartedAt: b.Annotations[v1alpha1.AnnotationRestartedAt],
		recreatedAt: b.Annotations[v1alpha1.AnnotationRecreatedAt],
		prove:       b.Annotations[v1alpha1.AnnotationProve],
		nodeName:    ptr.Deref(b.Status.NodeName, ""),
	}
	if res := b.Status.Resources; res != nil {
		o.cpus, o.memory = res.CPUs, res.Memory.String()
	}
	for _, c := range b.Status.Conditions {
		if c.Type == v1alpha1.ConditionScheduled {
			o.scheduled, o.scheduledReason = c.Status == metav1.ConditionTrue, c.Reason
		}
		o.lost = o.lost || c.Reason == v1alpha1.ReasonAgentLost
	}
	return o
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
