// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"encoding/json"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// nodes reconciles nodes. It observes whether a node exists, whether it is
// declared out of service and whether its agent still renews its Lease. It
// notifies the Bottle controller of changes, and keeps the scheduler from placing
// more Bottles on a node without an agent.
type nodes struct {
	client.Client
	live     client.Reader
	recorder events.EventRecorder
	options  Options
	leases   *leases
	verdicts *verdicts
	// changed receives the nodes whose facts changed.
	changed chan event.GenericEvent
}

// Reconcile makes one pass over one node. The Node object need not exist.
func (r *nodes) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	node := &corev1.Node{}
	err := r.Get(ctx, req.NamespacedName, node)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("get Node %s: %w", req.Name, err)
	}
	v := nodeFacts{gone: err != nil, outOfService: err == nil && outOfService(node)}
	lease, err := r.lease(ctx, r.Client, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	if lease == nil {
		// Nodes that never had an agent are not our concern.
		expected, err := r.expectsAgent(ctx, req.Name, node)
		if err != nil {
			return ctrl.Result{}, err
		}
		if !expected {
			r.leases.forget(req.Name)
			r.publish(ctx, req.Name, nodeFacts{outOfService: v.outOfService})
			return ctrl.Result{}, nil
		}
	}
	left := r.leases.observe(req.Name, lease)
	if left <= 0 {
		// The watch may lag behind: read the Lease from the API server before
		// declaring the agent lost.
		if lease, err = r.lease(ctx, r.live, req.Name); err != nil {
			return ctrl.Result{}, err
		}
		left = r.leases.observe(req.Name, lease)
	}
	v.agentLost = left <= 0
	if err := r.report(ctx, req.Name, node, v); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: max(left, 0)}, nil
}

// report publishes the facts about a node. If its agent is lost, report first
// withdraws the node's capacity, and records an Event when the loss is new.
func (r *nodes) report(ctx context.Context, name string, node *corev1.Node, v nodeFacts) error {
	was := r.verdicts.get(name)
	if v.agentLost && !v.gone {
		if err := r.withdrawCapacity(ctx, node); err != nil {
			return err
		}
		if !was.agentLost {
			r.recorder.Eventf(node, nil, corev1.EventTypeWarning, v1alpha1.ReasonAgentLost, "Watching",
				"The Bottle agent stopped renewing Lease %s/%s; the node gets no more Bottles", r.options.Namespace, leaseName(name))
		}
	}
	r.publish(ctx, name, v)
	return nil
}

// publish stores the facts and, if they changed, notifies the Bottle controller.
func (r *nodes) publish(ctx context.Context, name string, v nodeFacts) {
	if !r.verdicts.set(name, v) {
		return
	}
	ctrl.LoggerFrom(ctx).Info("Node changed", "gone", v.gone, "outOfService", v.outOfService, "agentLost", v.agentLost)
	node := &corev1.Node{}
	node.Name = name
	select {
	case r.changed <- event.GenericEvent{Object: node}:
	case <-ctx.Done():
	}
}

// expectsAgent reports whether a node without a Lease should have an agent,
// because it offers capacity for Bottles or because Bottles are on it.
func (r *nodes) expectsAgent(ctx context.Context, name string, node *corev1.Node) (bool, error) {
	if _, offers := node.Status.Capacity[v1alpha1.ResourceBottle]; offers {
		return true, nil
	}
	list := &v1alpha1.BottleList{}
	if err := r.List(ctx, list, client.MatchingFields{indexBottleNode: name}, client.Limit(1)); err != nil {
		return false, fmt.Errorf("list the Bottles on node %s: %w", name, err)
	}
	return len(list.Items) > 0, nil
}

// lease returns the Lease of a node's agent, nil when there is none.
func (r *nodes) lease(ctx context.Context, from client.Reader, node string) (*coordinationv1.Lease, error) {
	lease := &coordinationv1.Lease{}
	err := from.Get(ctx, client.ObjectKey{Namespace: r.options.Namespace, Name: leaseName(node)}, lease)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get the Lease of the agent on node %s: %w", node, err)
	}
	return lease, nil
}

// withdrawCapacity removes the node's capacity for Bottles. The agent restores it when
// it is back. The capacity is never set to 0: a kubelet that restarts while it is 0
// rejects the running placeholder Pods.
func (r *nodes) withdrawCapacity(ctx context.Context, node *corev1.Node) error {
	removed := map[string]any{v1alpha1.ResourceBottle: nil}
	status := map[string]any{}
	if _, has := node.Status.Capacity[v1alpha1.ResourceBottle]; has {
		status["capacity"] = removed
	}
	if _, has := node.Status.Allocatable[v1alpha1.ResourceBottle]; has {
		status["allocatable"] = removed
	}
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return fmt.Errorf("encode the patch: %w", err)
	}
	err = r.Status().Patch(ctx, node.DeepCopy(), client.RawPatch(types.MergePatchType, patch), client.FieldOwner(v1alpha1.ManagerFieldOwner))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("withdraw the capacity of node %s: %w", node.Name, err)
	}
	return nil
}

// outOfService reports whether a node is not ready and somebody tainted it as out
// of service, which permits its Bottles to be placed elsewhere.
func outOfService(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	for _, t := range node.Spec.Taints {
		if t.Key == corev1.TaintNodeOutOfService {
			return true
		}
	}
	return false
}
