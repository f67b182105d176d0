// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/freshness"
	"botbottle.dev/bottle-operator/internal/placeholder"
)

// staleRetry is how long to wait before repeating a pass whose cached view was
// too old, unless a newer view triggers the pass earlier.
const staleRetry = 200 * time.Millisecond

// errStale reports that the state changed after the decision was made.
var errStale = errors.New("the decision rests on an outdated view")

// errNamespaceTerminating reports that nothing can be created in the namespace
// any more.
var errNamespaceTerminating = errors.New("the namespace is being deleted")

// bottles reconciles Bottles: it gathers facts, decides and writes.
type bottles struct {
	client.Client
	// live bypasses the cache. It is used before anything irreversible.
	live     client.Reader
	recorder events.EventRecorder
	options  Options
	verdicts *verdicts
	metrics  *placementMetrics
	written  *freshness.Writes
	replaced *replacements
}

// Reconcile makes one pass over one Bottle.
func (r *bottles) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	result, err := r.pass(ctx, req.NamespacedName)
	if errors.Is(err, errStale) || apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: staleRetry}, nil
	}
	return result, err
}

func (r *bottles) pass(ctx context.Context, key client.ObjectKey) (ctrl.Result, error) {
	b := &v1alpha1.Bottle{}
	if err := r.Get(ctx, key, b); apierrors.IsNotFound(err) {
		b = nil
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("get Bottle %s: %w", key, err)
	}
	pod, former, strays, err := r.placeholders(ctx, key, b)
	if err != nil {
		return ctrl.Result{}, err
	}
	for i := range former {
		if err := r.replacePod(ctx, &former[i]); err != nil {
			return ctrl.Result{}, err
		}
	}
	for i := range strays {
		if err := r.removeStray(ctx, &strays[i]); err != nil {
			return ctrl.Result{}, err
		}
	}
	if b == nil {
		r.written.Forget(key)
		r.replaced.forget(key)
		return ctrl.Result{}, nil
	}
	if r.written.Stale(b) {
		return ctrl.Result{}, errStale
	}
	f, err := r.gather(b, pod)
	if err != nil {
		return ctrl.Result{}, err
	}
	left, expires := expiry(b, r.options.Clock.Now())
	if expires && left == 0 {
		return ctrl.Result{}, expire(ctx, r.Client, b)
	}
	result, err := r.act(ctx, f, pod)
	if err != nil {
		return result, err
	}
	if expires && (result.RequeueAfter == 0 || left < result.RequeueAfter) {
		result.RequeueAfter = left
	}
	return result, metadataWriter{r.Client, r.recorder}.update(ctx, f, pod)
}

// placeholders returns the Bottle's own Pod, and former ones, whose place that Pod has
// taken. It also returns strays: Pods that were made for an earlier Bottle of the same name
// that no longer exists. Other Pods with the Bottle's name belong to somebody else and are
// left alone.
func (r *bottles) placeholders(ctx context.Context, key client.ObjectKey, b *v1alpha1.Bottle) (own *corev1.Pod, former, strays []corev1.Pod, err error) {
	list := &corev1.PodList{}
	if err := r.List(ctx, list, client.InNamespace(key.Namespace), client.MatchingFields{indexPodBottle: key.Name}); err != nil {
		return nil, nil, nil, fmt.Errorf("list placeholder Pods of %s: %w", key, err)
	}
	own, former, strays = classifyPods(b, list.Items)
	return own, former, strays, nil
}

// classifyPods implements placeholders for Pods that carry the Bottle's name.
func classifyPods(b *v1alpha1.Bottle, pods []corev1.Pod) (own *corev1.Pod, former, strays []corev1.Pod) {
	for i := range pods {
		pod := &pods[i]
		switch {
		case b != nil && owns(b, pod):
			if own != nil && succeeds(own, pod) {
				own, pod = pod, own
			}
			if own == nil {
				own = pod
			} else if own != pod {
				former = append(former, *pod)
			}
		case b != nil && disowned(b, pod):
			// If it blocks the Bottle's own Pod, adoptPod reports it.
		case wasPlaceholder(pod):
			strays = append(strays, *pod)
		}
	}
	return own, former, strays
}

// owns reports whether a Pod is the Bottle's placeholder. Labels alone prove
// nothing, because anyone who creates Pods can set them.
func owns(b *v1alpha1.Bottle, pod *corev1.Pod) bool {
	return pod.Labels[v1alpha1.LabelUID] == string(b.UID) && controls(b, pod) &&
		(pod.Name == placeholder.Name(b) || pod.Name == placeholder.SuccessorName(b, placeholder.Name(b)))
}

// controls reports whether the Bottle is the Pod's controller. The UID alone does
// not prove it: admission guards references to Bottles, and a reference to an
// object of another kind can carry any UID.
func controls(b *v1alpha1.Bottle, pod *corev1.Pod) bool {
	return metav1.IsControlledBy(pod, b) && controllingBottle(pod) == b.Name
}

// disowned reports whether a Pod has the Bottle's UID but no controller.
func disowned(b *v1alpha1.Bottle, pod *corev1.Pod) bool {
	return pod.Labels[v1alpha1.LabelUID] == string(b.UID) && metav1.GetControllerOfNoCopy(pod) == nil
}

// wasPlaceholder reports whether a Pod was made for some Bottle. The Pod has no
// controller if its Bottle was deleted without its dependents.
func wasPlaceholder(pod *corev1.Pod) bool {
	return controllerutil.ContainsFinalizer(pod, v1alpha1.FinalizerMachine) &&
		(metav1.GetControllerOfNoCopy(pod) == nil || controllingBottle(pod) != "")
}

// gather collects the facts about a Bottle and its placeholder.
func (r *bottles) gather(b *v1alpha1.Bottle, pod *corev1.Pod) (facts, error) {
	resources := placeholder.Resources(b, r.options.Options)
	want, err := renderWanted(b, resources, r.options)
	if err != nil {
		return facts{}, err
	}
	f := facts{
		bottle:  b,
		pod:     observePod(pod),
		home:    r.verdicts.get(ptr.Deref(b.Status.NodeName, "")),
		desired: desiredPod{resources: resources, digest: want.Annotations[placeholder.AnnotationDigest]},
	}
	if image := placeholder.Forbidden(b, r.options.AllowedBundleImages); image != "" {
		f.refusal, f.forbidden = forbiddenImage(image), true
	}
	if f.pod != nil {
		f.pod.flaw, f.pod.unbooked, f.pod.outdated = flawOf(pod, want), unbookedOf(pod, b), outdatedOf(pod, b)
		f.pod.twice = twiceOf(pod, b)
		f.pod.wait = r.replaced.wait(client.ObjectKeyFromObject(b), pod.UID)
		// If our clock and the API server's differ much, nothing waits.
		f.pod.reportIn = r.options.FirstReport - r.options.Clock.Since(f.pod.created).Abs()
		if f.pod.ended != "" {
			f.pod.wait, f.pod.next = pauseAfter(f.pod.failures, r.options.Clock.Since(f.pod.created), r.options)
		}
	}
	if f.pod != nil && f.pod.node != "" {
		f.bound = r.verdicts.get(f.pod.node)
	}
	return f, nil
}

// act carries out the decision. A placeholder that was created or refused is a
// new fact, so act then decides again.
func (r *bottles) act(ctx context.Context, f facts, pod *corev1.Pod) (ctrl.Result, error) {
	d := decide(f)
	var result ctrl.Result
	var createErr error
	switch d.pod {
	case podRemove:
		if err := r.removePod(ctx, f.bottle, pod); err != nil {
			return result, err
		}
		r.recordReplaced(f, d, pod)
	case podReplace:
		if err := confirmDown(ctx, r.live, f, d); err != nil {
			return result, err
		}
		if err := r.replacePod(ctx, pod); err != nil {
			return result, err
		}
		r.recordReplaced(f, d, pod)
	case podHold:
		if err := r.patchFinalizer(ctx, pod, holdPod); err != nil {
			return result, err
		}
	case podCreate:
		made, refusal, err := r.createPod(ctx, f, d.pin)
		terminating := errors.Is(err, errNamespaceTerminating)
		if err != nil && refusal == "" && !terminating {
			return result, err
		}
		if !terminating { // no retry: the Bottle is deleted along with the namespace
			createErr = err
		}
		r.recordSuccessor(f, made)
		if made == nil {
			made = pod
		}
		if f, err = r.gather(f.bottle, made); err != nil {
			return result, err
		}
		f.refusal, f.namespaceTerminating = refusal, terminating
		if refusal != "" {
			result.RequeueAfter = r.options.RefusalRetry
		}
		d = decide(f)
	}
	if d.after > 0 {
		result.RequeueAfter = d.after
	}
	if f.pod != nil && f.pod.wait > 0 && (d.after == 0 || f.pod.wait < d.after) {
		result.RequeueAfter = f.pod.wait
	}
	switch {
	case d.dropFinalizer:
		return result, r.dropFinalizer(ctx, f)
	case d.clear:
		return result, r.clear(ctx, f, d.status)
	case d.status != nil:
		return result, errors.Join(createErr, r.writeStatus(ctx, f, d.status))
	}
	return result, createErr
}

// createPod creates the placeholder, pinned to a node unless pin is empty. If
// the API server refuses the Pod, createPod returns the server's message as the
// second result, for the user to read, and no error. If the server could not
// consult a policy, createPod returns both, because a retry may succeed. The
// error is errNamespaceTerminating when the namespace is being deleted or gone.
func (r *bottles) createPod(ctx context.Context, f facts, pin string) (*corev1.Pod, string, error) {
	if g := r.options.Guard; g != nil {
		if err := g.Hold(ctx); err != nil {
			return nil, err.Error(), err
		}
	}
	resources := f.desired.resources
	if pin != "" && f.bottle.Status.Resources != nil {
		resources = *f.bottle.Status.Resources
		if resources.Disk == nil { // an earlier manager placed the Bottle
			resources.Disk = f.desired.resources.Disk
		}
	}
	pod, err := placeholder.Render(f.bottle, resources, pin, r.options.Options)
	if rebooks(f.bottle) {
		pod, err = renderRebooked(f.bottle, resources, r.options)
	}
	if err != nil {
		return nil, "", err
	}
	if f.pod != nil {
		pod.Name = placeholder.SuccessorName(f.bottle, f.pod.name)
		pod.Annotations[annotationFailures] = strconv.Itoa(f.pod.next)
	}
	err = r.Create(ctx, pod, client.FieldOwner(v1alpha1.ManagerFieldOwner))
	if pin != "" && refused(err) && !namespaceTerminating(err) {
		// Some webhooks, such as those of queues, let only the scheduler choose a node.
		pod.Spec.NodeName = ""
		err = r.Create(ctx, pod, client.FieldOwner(v1alpha1.ManagerFieldOwner))
	}
	switch {
	case err == nil:
		return pod, "", nil
	case apierrors.IsAlreadyExists(err):
		existing, refusal, err := r.adoptPod(ctx, f.bottle, pod.Name)
		if existing == nil || f.pod == nil || endOf(existing) == "" {
			return existing, refusal, err
		}
		refusal, err = formerStays(existing)
		return nil, refusal, err
	case namespaceTerminating(err):
		return nil, "", errNamespaceTerminating
	case refused(err):
		return nil, explainRefusal(f.bottle, err), nil
	case apierrors.IsInternalError(err):
		return nil, err.Error(), fmt.Errorf("create placeholder Pod %s: %w", pod.Name, err)
	default:
		return nil, "", fmt.Errorf("create placeholder Pod %s: %w", pod.Name, err)
	}
}

// adoptPod inspects the existing Pod that has the placeholder's name. Usually it
// is our own Pod, which the cache does not show yet. If it lost our label, the
// cache would never show it, so adoptPod restores the label.
func (r *bottles) adoptPod(ctx context.Context, b *v1alpha1.Bottle, name string) (*corev1.Pod, string, error) {
	pod := &corev1.Pod{}
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: b.Namespace, Name: name}, pod); err != nil {
		return nil, "", errors.Join(errStale, client.IgnoreNotFound(err))
	}
	if !controls(b, pod) {
		return nil, fmt.Sprintf("a Pod named %s already exists and does not belong to this Bottle: delete it", name), nil
	}
	if pod.Labels[v1alpha1.LabelUID] == string(b.UID) && pod.Annotations[v1alpha1.LabelName] == b.Name {
		return pod, "", nil
	}
	before := pod.DeepCopy()
	metav1.SetMetaDataLabel(&pod.ObjectMeta, v1alpha1.LabelUID, string(b.UID))
	metav1.SetMetaDataAnnotation(&pod.ObjectMeta, v1alpha1.LabelName, b.Name)
	if err := r.Patch(ctx, pod, client.MergeFrom(before), client.FieldOwner(v1alpha1.ManagerFieldOwner)); err != nil {
		return nil, "", fmt.Errorf("label placeholder Pod %s: %w", name, err)
	}
	return pod, "", nil
}
