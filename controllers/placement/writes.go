// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// removePod deletes a placeholder and removes its finalizer. It first checks with
// the API server, not the cache, whether anything of the Bottle may be on the
// Pod's node, because releasing a Pod too early could let the Bottle run twice.
func (r *bottles) removePod(ctx context.Context, b *v1alpha1.Bottle, pod *corev1.Pod) error {
	now := &v1alpha1.Bottle{}
	err := r.live.Get(ctx, client.ObjectKeyFromObject(b), now)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("get Bottle %s/%s: %w", b.Namespace, b.Name, err)
	}
	if err == nil && now.UID == b.UID && holds(now, pod.Spec.NodeName) {
		return fmt.Errorf("remove placeholder Pod %s: %w", pod.Name, errStale)
	}
	return r.release(ctx, pod)
}

// holds reports whether the node may have something of the Bottle.
func holds(b *v1alpha1.Bottle, node string) bool {
	if !b.DeletionTimestamp.IsZero() {
		return controllerutil.ContainsFinalizer(b, v1alpha1.FinalizerNode)
	}
	if released(b) {
		return false // the agent starts nothing
	}
	return node != "" && ptr.Deref(b.Status.NodeName, "") == node
}

// removeStray deletes a placeholder whose Bottle no longer exists.
func (r *bottles) removeStray(ctx context.Context, pod *corev1.Pod) error {
	b := &v1alpha1.Bottle{}
	err := r.live.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: bottleName(pod)}, b)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("get the Bottle of Pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err == nil && (owns(b, pod) || disowned(b, pod)) {
		return fmt.Errorf("remove placeholder Pod %s: %w", pod.Name, errStale)
	}
	return r.release(ctx, pod)
}

// release deletes a Pod and then removes its finalizer. The order ensures that a
// pass that dies between the two steps leaves a Pod that is being deleted. The grace
// period is 0, also for a Pod that somebody else, such as a drain, has deleted already:
// its machine is gone, and without a kubelet the Pod would otherwise stay.
func (r *bottles) release(ctx context.Context, pod *corev1.Pod) error {
	if pod.DeletionTimestamp.IsZero() || ptr.Deref(pod.DeletionGracePeriodSeconds, 0) > 0 {
		err := r.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete placeholder Pod %s: %w", pod.Name, err)
		}
	}
	return r.patchFinalizer(ctx, pod, releasePod)
}

// replacePod removes the finalizer of a Pod, whose place another one takes, and then
// deletes it. In the other order, the Pod would for a moment look like one that somebody
// deleted, which evicts the Bottle. So would a Pod that got its finalizer back in between,
// from a manager that has just ceased to lead: the Pod is deleted only in the version
// without the finalizer. The API server shows it as being deleted before it is gone, and
// the annotation tells every manager why: see beingReplaced.
func (r *bottles) replacePod(ctx context.Context, pod *corev1.Pod) error {
	pod = pod.DeepCopy()
	if !beingReplaced(pod) {
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:"true"},%q:[%q]}}`, pod.UID, annotationReplaced, releasePod, v1alpha1.FinalizerMachine)
		err := r.Patch(ctx, pod, client.RawPatch(types.StrategicMergePatchType, patch), client.FieldOwner(v1alpha1.ManagerFieldOwner))
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("release placeholder Pod %s: %w", pod.Name, err)
		}
	}
	err := r.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete placeholder Pod %s: %w", pod.Name, err)
	}
	return nil
}

// finalizerChange is what a patch does to the finalizer of a placeholder. A
// strategic merge patch names only ours, so it does not conflict with changes to
// others.
type finalizerChange string

const (
	holdPod    finalizerChange = "finalizers"
	releasePod finalizerChange = "$deleteFromPrimitiveList/finalizers"
)

// patchFinalizer adds our finalizer to a Pod or removes it.
func (r *bottles) patchFinalizer(ctx context.Context, pod *corev1.Pod, change finalizerChange) error {
	if controllerutil.ContainsFinalizer(pod, v1alpha1.FinalizerMachine) == (change == holdPod) {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,%q:[%q]}}`, pod.UID, change, v1alpha1.FinalizerMachine)
	err := r.Patch(ctx, pod.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, patch), client.FieldOwner(v1alpha1.ManagerFieldOwner))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("change the finalizer of placeholder Pod %s: %w", pod.Name, err)
	}
	return nil
}

// dropFinalizer removes the agent's finalizer from a deleted Bottle that has
// nothing on any node, or whose node is lost.
func (r *bottles) dropFinalizer(ctx context.Context, f facts) error {
	b := f.bottle
	if node := ptr.Deref(b.Status.NodeName, ""); node != "" {
		if err := r.confirmLost(ctx, node); err != nil {
			return err
		}
		r.recorder.Eventf(b, nil, corev1.EventTypeWarning, v1alpha1.ReasonNodeLost, "Deleting",
			"Node %s is gone or out of service; anything of this Bottle that is still on it is not removed", node)
	}
	after := b.DeepCopy()
	controllerutil.RemoveFinalizer(after, v1alpha1.FinalizerNode)
	patch := client.MergeFromWithOptions(b, client.MergeFromWithOptimisticLock{})
	if err := r.Patch(ctx, after, patch, client.FieldOwner(v1alpha1.ManagerFieldOwner)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove the node finalizer of Bottle %s/%s: %w", b.Namespace, b.Name, err)
	}
	return nil
}

// clear removes a lost node from the Bottle's status.
func (r *bottles) clear(ctx context.Context, f facts, w *desiredStatus) error {
	b, node := f.bottle, ptr.Deref(f.bottle.Status.NodeName, "")
	if err := r.confirmLost(ctx, node); err != nil {
		return err
	}
	patch, err := clearPatch(b, w, conditionsToApply(b, w, metav1.NewTime(r.options.Clock.Now())))
	if err != nil {
		return err
	}
	if err := r.Status().Patch(ctx, b.DeepCopy(), patch, client.FieldOwner(v1alpha1.ManagerFieldOwner)); err != nil {
		return fmt.Errorf("clear the status of Bottle %s/%s: %w", b.Namespace, b.Name, client.IgnoreNotFound(err))
	}
	ctrl.LoggerFrom(ctx).Info("Removed the Bottle from a lost node", "node", node)
	r.recorder.Eventf(b, nil, corev1.EventTypeWarning, v1alpha1.ReasonNodeLost, "Placing", "Node %s is gone or out of service; the Bottle is placed again", node)
	return nil
}

// confirmLost checks with the API server, not the cache, that a node is lost. It
// returns errStale if the node is back.
func (r *bottles) confirmLost(ctx context.Context, name string) error {
	node := &corev1.Node{}
	err := r.live.Get(ctx, client.ObjectKey{Name: name}, node)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get Node %s: %w", name, err)
	}
	if !outOfService(node) {
		return fmt.Errorf("node %s is back: %w", name, errStale)
	}
	return nil
}

// writeStatus applies the manager's share of the status when it differs.
func (r *bottles) writeStatus(ctx context.Context, f facts, w *desiredStatus) error {
	b := f.bottle
	conditions := conditionsToApply(b, w, metav1.NewTime(r.options.Clock.Now()))
	if !statusDiffers(b, w, conditions) {
		return nil
	}
	u, err := statusApply(b, w, conditions)
	if err != nil {
		return err
	}
	err = r.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(v1alpha1.ManagerFieldOwner), client.ForceOwnership)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("apply the status of Bottle %s/%s: %w", b.Namespace, b.Name, err)
	}
	r.written.Record(b, u.GetResourceVersion())
	r.record(f, w)
	return nil
}

// record records metrics and Events for a status that was just written.
func (r *bottles) record(f facts, w *desiredStatus) {
	b := f.bottle
	if b.Status.NodeName == nil && w.nodeName != "" {
		r.metrics.placed(f.pod.created, r.options.Clock.Now())
	}
	for _, c := range w.asserted {
		if c.Type != v1alpha1.ConditionScheduled || c.Reason == scheduledReason(b) {
			continue
		}
		switch c.Reason {
		case v1alpha1.ReasonPlaceholderRefused, v1alpha1.ReasonPlaceholderMismatch, v1alpha1.ReasonEvicted, v1alpha1.ReasonBundleImageNotAllowed:
			r.recorder.Eventf(b, nil, corev1.EventTypeWarning, c.Reason, "Placing", "%s", c.Message)
		}
	}
}

// recordReplaced records that a placeholder was removed for one of the decision's reasons;
// for any other, it does nothing.
func (r *bottles) recordReplaced(f facts, d decision, pod *corev1.Pod) {
	switch {
	case d.flaw != "":
		r.recorder.Eventf(f.bottle, nil, corev1.EventTypeWarning, v1alpha1.ReasonPlaceholderMismatch, "Placing",
			"Pod %s was not what the manager creates, and is replaced: %s", pod.Name, d.flaw)
	case d.outdated != "":
		r.recorder.Eventf(f.bottle, nil, corev1.EventTypeNormal, v1alpha1.ReasonPodOutdated, "Placing",
			"Pod %s is replaced while the machine is down: %s", pod.Name, d.outdated)
	case d.twice != "":
		r.recorder.Eventf(f.bottle, nil, corev1.EventTypeNormal, v1alpha1.ReasonPodOutdated, "Placing",
			"Pod %s is replaced, and the machine keeps running: %s", pod.Name, d.twice)
	default:
		return
	}
	r.replaced.record(client.ObjectKeyFromObject(f.bottle), pod.UID)
}

// recordSuccessor records that Pod made takes the place of one that has ended. It does
// nothing if made is nil or the first placeholder.
func (r *bottles) recordSuccessor(f facts, made *corev1.Pod) {
	if f.pod == nil || made == nil || made.Name == f.pod.name {
		return
	}
	r.recorder.Eventf(f.bottle, nil, corev1.EventTypeWarning, v1alpha1.ReasonPlaceholderEnded, "Placing",
		"Pod %s has ended (%s), and Pod %s takes its place", f.pod.name, f.pod.ended, made.Name)
}
