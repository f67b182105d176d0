// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
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

// Options of a Reconciler. All are required unless the comment says otherwise.
type Options struct {
	// Client reads the agent's own Node from a cache, and writes it.
	Client client.Client
	Facts  *Facts
	// Node is the name of the agent's own Node.
	Node string
	// MaxBottles is how many Bottles the node may run.
	MaxBottles int
	// Addresses is called with the IP addresses that the Node lists, some of which
	// may be on no interface of the node. It may be nil.
	Addresses func([]netip.Addr)
}

// Reconciler publishes on the agent's own Node whether it can run Bottles, and
// how many. It publishes this again whenever the Node loses it: a kubelet that
// restarts drops resources that it does not know.
type Reconciler struct {
	client     client.Client
	facts      *Facts
	node       string
	maxBottles int
	addresses  func([]netip.Addr)

	mu     sync.Mutex
	queue  workqueue.TypedRateLimitingInterface[reconcile.Request]
	logged string // the last problem that was logged
}

// New returns a Reconciler that is not yet part of a manager.
func New(o Options) *Reconciler {
	n := &Reconciler{client: o.Client, facts: o.Facts, node: o.Node, maxBottles: o.MaxBottles, addresses: o.Addresses}
	n.facts.OnChange(n.enqueue)
	return n
}

// SetupWithManager adds the Reconciler to mgr. The cache of mgr must hold the
// Node.
func (n *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	queue := source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.queue = q
		return nil
	})
	return ctrl.NewControllerManagedBy(mgr).Named("node").
		For(&corev1.Node{}).
		WithEventFilter(predicate.Funcs{UpdateFunc: n.changed}).
		WatchesRawSource(queue).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).
		Complete(n)
}

// changed filters out the kubelet's heartbeats.
func (n *Reconciler) changed(e event.UpdateEvent) bool {
	before, ok1 := e.ObjectOld.(*corev1.Node)
	after, ok2 := e.ObjectNew.(*corev1.Node)
	return !ok1 || !ok2 || published(before) != published(after) || !slices.Equal(addressesOf(before), addressesOf(after))
}

// addressesOf returns the IP addresses that a Node lists, without its names.
func addressesOf(n *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

// published returns what a Node shows about Bottles.
func published(n *corev1.Node) string {
	text := n.Labels[v1alpha1.LabelAgent]
	for _, list := range []corev1.ResourceList{n.Status.Capacity, n.Status.Allocatable} {
		text += "/"
		if amount, has := list[v1alpha1.ResourceBottle]; has {
			text += amount.String()
		}
	}
	return text
}

func (n *Reconciler) enqueue() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queue != nil {
		n.queue.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: n.node}})
	}
}

// Reconcile updates the Node according to the facts.
func (n *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if req.Name != n.node {
		return ctrl.Result{}, nil
	}
	node := &corev1.Node{}
	if err := n.client.Get(ctx, req.NamespacedName, node); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if n.addresses != nil {
		n.addresses(addressesOf(node))
	}
	problem := firstFailing(n.facts.Get(ctx))
	n.logProblem(ctx, problem)
	label, count := v1alpha1.LabelAgentReady, n.maxBottles
	if problem != nil {
		label, count = "", 0
	}
	if err := n.ensureLabel(ctx, node, label); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, n.ensureCapacity(ctx, node, count)
}

// logProblem logs a problem if it differs from the last one; nil means none.
func (n *Reconciler) logProblem(ctx context.Context, problem *host.Fact) {
	now := ""
	if problem != nil {
		now = problem.Name + ": " + problem.Message
	}
	n.mu.Lock()
	last := n.logged
	n.logged = now
	n.mu.Unlock()
	switch log := logf.FromContext(ctx); {
	case now == last:
	case now == "":
		log.Info("The node can run bottles")
	default:
		log.Info("The node cannot run bottles", "fact", now)
	}
}

// ensureLabel sets the agent's label, or removes it if desired is "".
func (n *Reconciler) ensureLabel(ctx context.Context, node *corev1.Node, desired string) error {
	current, exists := node.Labels[v1alpha1.LabelAgent]
	if current == desired && exists == (desired != "") {
		return nil
	}
	var value any = desired
	if desired == "" {
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

// ensureCapacity writes the number of Bottles to capacity and allocatable. A kubelet
// derives allocatable from capacity, but a Node may have no kubelet. If the number is 0,
// ensureCapacity removes the resource: a kubelet that restarts while the capacity is 0
// rejects the running placeholder Pods, and one that does not find the resource keeps them.
func (n *Reconciler) ensureCapacity(ctx context.Context, node *corev1.Node, count int) error {
	desired := *resource.NewQuantity(int64(count), resource.DecimalSI)
	change := map[string]any{}
	for field, list := range map[string]corev1.ResourceList{"capacity": node.Status.Capacity, "allocatable": node.Status.Allocatable} {
		current, exists := list[v1alpha1.ResourceBottle]
		switch {
		case count == 0 && exists:
			change[field] = map[string]any{v1alpha1.ResourceBottle: nil}
		case count > 0 && !(exists && current.Equal(desired)):
			change[field] = map[string]any{v1alpha1.ResourceBottle: desired.String()}
		}
	}
	if len(change) == 0 {
		return nil
	}
	target, patch, err := n.mergePatch(map[string]any{"status": change})
	if err != nil {
		return err
	}
	if err := n.client.Status().Patch(ctx, target, patch); err != nil {
		return fmt.Errorf("change %s of node %s: %w", v1alpha1.ResourceBottle, n.node, err)
	}
	return nil
}

// Withdraw removes from a Node the label and the resource that an agent published. It
// returns nil if there is no such Node.
func Withdraw(ctx context.Context, c client.Client, name string) error {
	node := &corev1.Node{}
	if err := c.Get(ctx, types.NamespacedName{Name: name}, node); err != nil {
		return client.IgnoreNotFound(err)
	}
	n := &Reconciler{client: c, node: name}
	if err := n.ensureLabel(ctx, node, ""); err != nil {
		return err
	}
	return n.ensureCapacity(ctx, node, 0)
}

// mergePatch returns the Node to patch and a patch with the change.
func (n *Reconciler) mergePatch(change map[string]any) (*corev1.Node, client.Patch, error) {
	data, err := json.Marshal(change)
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", n.node, err)
	}
	node := &corev1.Node{}
	node.Name = n.node
	return node, client.RawPatch(types.MergePatchType, data), nil
}

func firstFailing(facts []host.Fact) *host.Fact {
	for _, f := range facts {
		if !f.OK {
			return &f
		}
	}
	return nil
}
