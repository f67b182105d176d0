// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// NodeReconciler says on the agent's own Node whether it can run Bottles, and
// how many, and says so again whenever the Node loses it: a kubelet that
// restarts drops what it does not know.
type NodeReconciler struct {
	client     client.Client
	facts      *factKeeper
	node       string
	maxBottles int

	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
	said  string // the last fault that was logged
}

// NewNodeReconciler is the NodeReconciler of the node of r, which may run
// maxBottles Bottles.
func NewNodeReconciler(r *Reconciler, maxBottles int) *NodeReconciler {
	n := &NodeReconciler{client: r.Client, facts: r.facts, node: r.Node, maxBottles: maxBottles}
	r.facts.onChange(n.enqueue)
	return n
}

// SetupWithManager has the Node watched.
func (n *NodeReconciler) SetupWithManager(mgr ctrl.Manager) error {
	queue := source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.queue = q
		return nil
	})
	return ctrl.NewControllerManagedBy(mgr).Named("node").
		For(&corev1.Node{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: n.turned}).
		WatchesRawSource(queue).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(n)
}

// turned leaves out a kubelet's heartbeats.
func (n *NodeReconciler) turned(e event.UpdateEvent) bool {
	before, ok1 := e.ObjectOld.(*corev1.Node)
	after, ok2 := e.ObjectNew.(*corev1.Node)
	return !ok1 || !ok2 || said(before) != said(after)
}

// said is what a Node says of Bottles.
func said(n *corev1.Node) string {
	capacity, allocatable := n.Status.Capacity[v1alpha1.ResourceBottle], n.Status.Allocatable[v1alpha1.ResourceBottle]
	return n.Labels[v1alpha1.LabelAgent] + "/" + capacity.String() + "/" + allocatable.String()
}

func (n *NodeReconciler) enqueue() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queue != nil {
		n.queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: n.node}})
	}
}

// Reconcile makes the Node say what the facts are.
func (n *NodeReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if req.Name != n.node {
		return ctrl.Result{}, nil
	}
	node := &corev1.Node{}
	if err := n.client.Get(ctx, req.NamespacedName, node); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	fault := failing(n.facts.get(ctx), forAnything)
	n.say(ctx, fault)
	label, count := v1alpha1.LabelAgentReady, n.maxBottles
	if fault != nil {
		label, count = "", 0
	}
	if err := n.ensureLabel(ctx, node, label); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, n.ensureCapacity(ctx, node, count)
}

// say logs a fault when it turns.
func (n *NodeReconciler) say(ctx context.Context, fault *host.Fact) {
	now := ""
	if fault != nil {
		now = fault.Name + ": " + fault.Message
	}
	n.mu.Lock()
	was := n.said
	n.said = now
	n.mu.Unlock()
	switch log := logf.FromContext(ctx); {
	case now == was:
	case now == "":
		log.Info("The node can run bottles")
	default:
		log.Info("The node cannot run bottles", "fact", now)
	}
}

func (n *NodeReconciler) ensureLabel(ctx context.Context, node *corev1.Node, want string) error {
	got, there := node.Labels[v1alpha1.LabelAgent]
	if got == want && there == (want != "") {
		return nil
	}
	var value any = want
	if want == "" {
		value = nil
	}
	target, patch, err := n.mergePatch(map[string]any{"metadata": map[string]any{"labels": map[string]any{v1alpha1.LabelAgent: value}}})
	if err != nil {
		return err
	}
	if err := n.client.Patch(ctx, target, patch); err != nil {
		return fmt.Errorf("label node %s: %w", n.node, err)
	}
	return nil
}

// ensureCapacity writes capacity, from which a kubelet takes allocatable, and
// allocatable, for Nodes without a kubelet.
func (n *NodeReconciler) ensureCapacity(ctx context.Context, node *corev1.Node, count int) error {
	want := *resource.NewQuantity(int64(count), resource.DecimalSI)
	capacity, ok1 := node.Status.Capacity[v1alpha1.ResourceBottle]
	allocatable, ok2 := node.Status.Allocatable[v1alpha1.ResourceBottle]
	if ok1 && ok2 && capacity.Equal(want) && allocatable.Equal(want) {
		return nil
	}
	amount := map[string]any{v1alpha1.ResourceBottle: want.String()}
	target, patch, err := n.mergePatch(map[string]any{"status": map[string]any{"capacity": amount, "allocatable": amount}})
	if err != nil {
		return err
	}
	if err := n.client.Status().Patch(ctx, target, patch); err != nil {
		return fmt.Errorf("advertise %s on node %s: %w", v1alpha1.ResourceBottle, n.node, err)
	}
	return nil
}

// mergePatch is the node to patch and the change to it.
func (n *NodeReconciler) mergePatch(change map[string]any) (*corev1.Node, client.Patch, error) {
	data, err := json.Marshal(change)
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", n.node, err)
	}
	node := &corev1.Node{}
	node.Name = n.node
	return node, client.RawPatch(types.MergePatchType, data), nil
}
