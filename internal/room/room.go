// SPDX-License-Identifier: Apache-2.0

// Package room keeps a node from getting more machines than it has room for. The
// scheduler ensures that as long as a placeholder Pod books each machine. When such
// a Pod ends, for example because the kubelet evicted it, the scheduler gives its room to
// another Bottle while the machine keeps running. That Bottle must then wait.
//
// The package starts, stops and places nothing, and does not count what Pods other than
// placeholders use: the scheduler and the kubelet do.
package room

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/state"
)

// checkInterval is the time between two attempts to admit a Bottle that waits. Changes to
// the Node and to placeholder Pods cause no pass.
const checkInterval = 10 * time.Second

// Options of a Gate. All are required.
type Options struct {
	// Client reads the Node and the Bottles on it from a cache.
	Client client.Reader
	// Node is the node's name.
	Node string
	// State tells which Bottles have a machine on the node.
	State *state.Dir
}

// Gate admits Bottles to a node.
type Gate struct {
	Options

	mu sync.Mutex
	// admitted are the Bottles that count: those that were admitted, and those that have
	// a machine.
	admitted map[types.UID]bool
}

// New returns a Gate.
func New(o Options) *Gate { return &Gate{Options: o, admitted: map[types.UID]bool{}} }

// Admit returns nil if the Bottle may have a machine on the node. One that has a machine
// always may. It returns *flow.Waiting if the node has no room for the machine beside
// those of the other Bottles, or if the Bottle's own placeholder Pod has ended: then the
// node may have no room because of other Pods.
func (g *Gate) Admit(ctx context.Context, b *v1alpha1.Bottle) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.admitted[b.UID] || g.hasMachine(b) {
		g.admitted[b.UID] = true
		return nil
	}
	node := &corev1.Node{}
	err := g.Client.Get(ctx, types.NamespacedName{Name: g.Node}, node)
	if apierrors.IsNotFound(err) {
		return nil // the manager evicts the Bottles of a Node that is gone
	}
	if err != nil {
		return fmt.Errorf("read node %s: %w", g.Node, err)
	}
	others, err := g.others(ctx, b)
	if err != nil {
		return err
	}
	if why := refusal(b, others, node); why != "" {
		return &flow.Waiting{Reason: v1alpha1.ReasonNodeFull, After: checkInterval, Message: why +
			"; it gets its machine when there is room. To have it placed on another node instead, delete its placeholder Pod"}
	}
	g.admitted[b.UID] = true
	return nil
}

// Forget drops a Bottle that left the node.
func (g *Gate) Forget(uid string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.admitted, types.UID(uid))
}

// others returns the Bottles other than b that count. g.mu is held.
func (g *Gate) others(ctx context.Context, b *v1alpha1.Bottle) ([]*v1alpha1.Bottle, error) {
	list := &v1alpha1.BottleList{}
	if err := g.Client.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list the Bottles of node %s: %w", g.Node, err)
	}
	var found []*v1alpha1.Bottle
	here := map[types.UID]bool{}
	for i := range list.Items {
		other := &list.Items[i]
		if ptr.Deref(other.Status.NodeName, "") != g.Node {
			continue
		}
		here[other.UID] = true
		if other.UID == b.UID || !g.admitted[other.UID] && !g.hasMachine(other) {
			continue
		}
		g.admitted[other.UID] = true
		found = append(found, other)
	}
	for uid := range g.admitted {
		if !here[uid] {
			delete(g.admitted, uid)
		}
	}
	return found, nil
}

// hasMachine reports whether the node has a machine of the Bottle. If its record cannot be
// read, it may have one. The status may be older than the record, and survives its loss.
func (g *Gate) hasMachine(b *v1alpha1.Bottle) bool {
	if b.Status.Machine != nil {
		return true
	}
	folder, err := g.State.Folder(string(b.UID))
	if err != nil {
		return false // no UID that could have a folder
	}
	record, err := folder.Record()
	return err != nil || record != nil
}

// refusal returns why the node has no room for Bottle b beside the others, or "".
func refusal(b *v1alpha1.Bottle, others []*v1alpha1.Bottle, node *corev1.Node) string {
	if !booked(b) {
		return fmt.Sprintf("the placeholder Pod of this Bottle has ended, so nothing is reserved for it on node %s", node.Name)
	}
	var short []string
	for name, allocatable := range node.Status.Allocatable {
		used := resource.Quantity{}
		for _, other := range others {
			used.Add(needs(other)[name])
		}
		need, left := needs(b)[name], allocatable.DeepCopy()
		left.Sub(used)
		if need.Sign() > 0 && left.Cmp(need) < 0 {
			short = append(short, fmt.Sprintf("%s of %s, but %s of %s are in use", need.String(), name, used.String(), allocatable.String()))
		}
	}
	if len(short) == 0 {
		return ""
	}
	slices.Sort(short)
	return fmt.Sprintf("node %s has no room for this Bottle in addition to those that it runs: it needs %s", node.Name, strings.Join(short, ", and "))
}

// booked reports whether the Bottle's placeholder books its resources, as far as the
// manager has reported.
func booked(b *v1alpha1.Bottle) bool {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionScheduled)
	return c == nil || c.Reason != v1alpha1.ReasonPlaceholderEnded
}

// needs returns what is booked for a Bottle on its node. Nothing is booked for one that
// has finished, and its machine is down until that changes.
func needs(b *v1alpha1.Bottle) corev1.ResourceList {
	if b.Status.Resources == nil && meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionFinished) {
		return nil
	}
	list := corev1.ResourceList{v1alpha1.ResourceBottle: *resource.NewQuantity(1, resource.DecimalSI)}
	r := b.Status.Resources
	if r == nil {
		return list
	}
	cpu, memory := *resource.NewQuantity(int64(r.CPUs), resource.DecimalSI), r.Memory.DeepCopy()
	if r.Bundle != nil {
		cpu.Add(r.Bundle.CPU)
		memory.Add(r.Bundle.Memory)
	}
	if r.Overhead != nil { // an earlier manager did not record it
		cpu.Add(ptr.Deref(r.Overhead.CPU, resource.Quantity{}))
		memory.Add(ptr.Deref(r.Overhead.Memory, resource.Quantity{}))
	}
	list[corev1.ResourceCPU], list[corev1.ResourceMemory] = cpu, memory
	if r.Disk != nil {
		list[corev1.ResourceEphemeralStorage] = r.Disk.DeepCopy()
	}
	return list
}
