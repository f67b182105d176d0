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

// nodes watches over one node: whether it is there, whether it is declared
// out of service, whether its agent still renews its Lease. It tells the
// Bottle controller what is new, and keeps the scheduler from sending more
// Bottles to a node without an agent.
type nodes struct {
	client.Client
	live     client.Reader
	recorder events.EventRecorder
	options  Options
	leases   *leases
	verdicts *verdicts
	// news are nodes of which something new was found out.
	news chan event.GenericEvent
}

// Reconcile makes one pass over one node, of which there need not be a Node.
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
		// Nodes that never had an agent are none of our business.
		concerned, err := r.concerned(ctx, req.Name, node)
		if err != nil {
			return ctrl.Result{}, err
		}
		if !concerned {
			r.leases.forget(req.Name)
			r.publish(ctx, req.Name, nodeFacts{outOfService: v.outOfService})
			return ctrl.Result{}, nil
		}
	}
	holds := r.leases.observe(req.Name, lease)
	if holds <= 0 {
		// The watch may have fallen behind: ask once more before saying so.
		if lease, err = r.lease(ctx, r.live, req.Name); err != nil {
			return ctrl.Result{}, err
		}
		holds = r.leases.observe(req.Name, lease)
	}
	v.agentLost = holds <= 0
	if err := r.tell(ctx, req.Name, node, v); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: max(holds, 0)}, nil
}

// tell makes known what was found out.
func (r *nodes) tell(ctx context.Context, name string, node *corev1.Node, v nodeFacts) error {
	was := r.verdicts.get(name)
	if v.agentLost && !v.gone {
		if err := r.withdrawCapacity(ctx, node); err != nil {
			return err
		}
		if !was.agentLost {
			r.recorder.Eventf(node, nil, corev1.EventTypeWarning, v1alpha1.ReasonAgentLost, "Watching",
				"The Bottle agent stopped renewing Lease %s/%s; the node is given no more Bottles", r.options.Namespace, leaseName(name))
		}
	}
	r.publish(ctx, name, v)
	return nil
}

// publish hands news to the Bottle controller.
func (r *nodes) publish(ctx context.Context, name string, v nodeFacts) {
	if !r.verdicts.set(name, v) {
		return
	}
	ctrl.LoggerFrom(ctx).Info("Node changed", "gone", v.gone, "outOfService", v.outOfService, "agentLost", v.agentLost)
	node := &corev1.Node{}
	node.Name = name
	select {
	case r.news <- event.GenericEvent{Object: node}:
	case <-ctx.Done():
	}
}

// concerned says whether the node counts as having an agent though it has no
// Lease: it offers room for Bottles, or it has some.
func (r *nodes) concerned(ctx context.Context, name string, node *corev1.Node) (bool, error) {
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

// withdrawCapacity sets the node's room for Bottles to 0. The agent offers it
// again when it is back.
func (r *nodes) withdrawCapacity(ctx context.Context, node *corev1.Node) error {
	zero := map[string]string{v1alpha1.ResourceBottle: "0"}
	status := map[string]any{}
	if q, has := node.Status.Capacity[v1alpha1.ResourceBottle]; has && !q.IsZero() {
		status["capacity"] = zero
	}
	if q, has := node.Status.Allocatable[v1alpha1.ResourceBottle]; has && !q.IsZero() {
		status["allocatable"] = zero
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

// outOfService says that a node is not ready and that somebody tainted it as
// switched off, which is the word on which its Bottles may go elsewhere.
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
