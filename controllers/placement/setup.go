// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/eventsink"
	"botbottle.dev/bottle-operator/internal/freshness"
	"botbottle.dev/bottle-operator/internal/inherit"
)

const (
	// indexPodBottle finds placeholder Pods by the name of their Bottle.
	indexPodBottle = "placement.bottle"
	// indexBottleNode finds Bottles by their node.
	indexBottleNode = "status.nodeName"

	firstRetry = 200 * time.Millisecond
	lastRetry  = time.Minute
	workers    = 4
)

// CacheOptions returns the options for the manager's cache. The cache holds only
// placeholder Pods, Nodes and the Leases in the given namespace, and of each only
// the parts that placement uses.
func CacheOptions(namespace string) (cache.Options, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelUID, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, fmt.Errorf("select placeholder Pods: %w", err)
	}
	return cache.Options{ByObject: map[client.Object]cache.ByObject{
		&corev1.Pod{}:  {Label: labels.NewSelector().Add(*ours), Transform: slimPod},
		&corev1.Node{}: {Transform: slimNode},
		&coordinationv1.Lease{}: {
			Namespaces: map[string]cache.Config{namespace: {}},
			Transform:  cache.TransformStripManagedFields(),
		},
	}}, nil
}

// slimPod keeps only the parts of a Pod that placement uses.
func slimPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	slim := &corev1.Pod{ObjectMeta: pod.ObjectMeta}
	slim.ManagedFields = inherit.Record(pod.ManagedFields)
	slim.Spec.NodeName = pod.Spec.NodeName
	for _, c := range pod.Spec.Containers {
		slim.Spec.Containers = append(slim.Spec.Containers, corev1.Container{Name: c.Name, Command: slices.Clone(c.Command[:min(1, len(c.Command))]), Resources: corev1.ResourceRequirements{Requests: c.Resources.Requests}})
	}
	// Only the number of these containers matters.
	slim.Spec.InitContainers = make([]corev1.Container, len(pod.Spec.InitContainers))
	slim.Spec.EphemeralContainers = make([]corev1.EphemeralContainer, len(pod.Spec.EphemeralContainers))
	slim.Status.Phase, slim.Status.Reason = pod.Status.Phase, pod.Status.Reason
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled || c.Type == corev1.DisruptionTarget {
			slim.Status.Conditions = append(slim.Status.Conditions, c)
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil {
			end := corev1.ContainerStateTerminated{FinishedAt: t.FinishedAt}
			slim.Status.ContainerStatuses = append(slim.Status.ContainerStatuses, corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &end}})
		}
	}
	return slim, nil
}

// slimNode keeps only the parts of a Node that placement and the access API use.
func slimNode(o any) (any, error) {
	node, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	slim := &corev1.Node{}
	slim.Name, slim.UID, slim.ResourceVersion = node.Name, node.UID, node.ResourceVersion
	slim.Spec.Taints = node.Spec.Taints
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			slim.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	slim.Status.Addresses = node.Status.Addresses // where the access API may connect to the agent
	slim.Status.Capacity = bottleCapacity(node.Status.Capacity)
	slim.Status.Allocatable = bottleCapacity(node.Status.Allocatable)
	return slim, nil
}

func bottleCapacity(l corev1.ResourceList) corev1.ResourceList {
	q, has := l[v1alpha1.ResourceBottle]
	if !has {
		return nil
	}
	return corev1.ResourceList{v1alpha1.ResourceBottle: q}
}

// SetupWithManager adds placement to a manager whose cache was created with
// CacheOptions. If several managers may run, they must elect a leader.
func SetupWithManager(mgr ctrl.Manager, o Options) error {
	if err := o.validate(); err != nil {
		return fmt.Errorf("placement: %w", err)
	}
	if err := addIndexes(mgr.GetFieldIndexer()); err != nil {
		return err
	}
	v, changed := newVerdicts(), make(chan event.GenericEvent)
	m, err := registerMetrics(o.Registerer, mgr.GetClient(), v)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	recorder, err := eventsink.NewRecorder(mgr, "botbottle.dev/manager", "")
	if err != nil {
		return err
	}
	b := &bottles{Client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: recorder, options: o, verdicts: v, metrics: m, written: &freshness.Writes{},
		replaced: newReplacements(o.Clock, o.RefusalRetry)}
	n := &nodes{Client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: recorder, options: o,
		leases: newLeases(o.Clock, o.LeaseDuration), verdicts: v, changed: changed}
	err = ctrl.NewControllerManagedBy(mgr).Named("placement").
		For(&v1alpha1.Bottle{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(bottleOfPod)).
		WatchesRawSource(source.Channel(changed, handler.EnqueueRequestsFromMapFunc(b.onNode))).
		WithOptions(controllerOptions()).
		Complete(b)
	if err != nil {
		return fmt.Errorf("set up the placement controller: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).Named("node").
		For(&corev1.Node{}).
		Watches(&coordinationv1.Lease{}, handler.EnqueueRequestsFromMapFunc(nodeOfObject)).
		Watches(&v1alpha1.Bottle{}, handler.EnqueueRequestsFromMapFunc(nodeOfObject)).
		WithOptions(controllerOptions()).
		Complete(n)
	if err != nil {
		return fmt.Errorf("set up the node controller: %w", err)
	}
	return nil
}

func controllerOptions() controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: workers,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
	}
}

func addIndexes(indexer client.FieldIndexer) error {
	ctx := context.Background()
	err := indexer.IndexField(ctx, &corev1.Pod{}, indexPodBottle, func(o client.Object) []string {
		return []string{bottleName(o)}
	})
	if err != nil {
		return fmt.Errorf("index Pods: %w", err)
	}
	err = indexer.IndexField(ctx, &v1alpha1.Bottle{}, indexBottleNode, func(o client.Object) []string {
		b, ok := o.(*v1alpha1.Bottle)
		if !ok || b.Status.NodeName == nil {
			return nil
		}
		return []string{*b.Status.NodeName}
	})
	if err != nil {
		return fmt.Errorf("index Bottles: %w", err)
	}
	return nil
}

// bottleName returns the name of a placeholder's Bottle. It is in an annotation,
// because label values are too short for some names. If the annotation is
// missing, the Pod's controller gives the name.
func bottleName(pod client.Object) string {
	if name := pod.GetAnnotations()[v1alpha1.LabelName]; name != "" {
		return name
	}
	return controllingBottle(pod)
}

// controllingBottle returns the name of the Bottle that controls a Pod, or "".
func controllingBottle(pod client.Object) string {
	c := metav1.GetControllerOfNoCopy(pod)
	if c == nil || c.Kind != "Bottle" || !strings.HasPrefix(c.APIVersion, v1alpha1.GroupVersion.Group+"/") {
		return ""
	}
	return c.Name
}

func bottleOfPod(_ context.Context, pod client.Object) []reconcile.Request {
	name := bottleName(pod)
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: name}}}
}

// nodeOfObject returns a request for the node of an agent's Lease or of a Bottle.
func nodeOfObject(_ context.Context, o client.Object) []reconcile.Request {
	var node string
	switch o := o.(type) {
	case *coordinationv1.Lease:
		node = nodeOfLease(o.Name)
	case *v1alpha1.Bottle:
		node = ptr.Deref(o.Status.NodeName, "")
	}
	if node == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: node}}}
}

// onNode returns requests for the Bottles on a node.
func (r *bottles) onNode(ctx context.Context, node client.Object) []reconcile.Request {
	list := &v1alpha1.BottleList{}
	if err := r.List(ctx, list, client.MatchingFields{indexBottleNode: node.GetName()}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Could not list the Bottles of a node", "node", node.GetName())
		return nil
	}
	requests := make([]reconcile.Request, len(list.Items))
	for i := range list.Items {
		requests[i].NamespacedName = client.ObjectKeyFromObject(&list.Items[i])
	}
	return requests
}
