// SPDX-License-Identifier: Apache-2.0

package passes

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Requests requests passes over Bottles of this node. Before it is bound to a
// queue it does nothing.
type Requests struct {
	registry *Registry

	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// NewRequests returns Requests for the Bottles that registry knows.
func NewRequests(registry *Registry) *Requests { return &Requests{registry: registry} }

// Bind sets the queue of the passes.
func (r *Requests) Bind(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = q
}

// Priorities of passes.
const (
	// OrdinaryPriority is that of a pass that nothing of the Bottle's own waits for.
	OrdinaryPriority = 0
	// continuePriority is that of a pass that continues what was started.
	continuePriority = 10
)

// Enqueue requests a pass over the Bottle.
func (r *Requests) Enqueue(k types.NamespacedName) { r.add(k, OrdinaryPriority) }

// Continue requests a pass over the Bottle because its start or proof has ended,
// or because the guard found something about it. The pass comes before ordinary
// ones, so that when there are many new Bottles, the first are finished before
// the last are begun. Starts and proofs are limited in number, and the guard
// reports a finding once, so such passes do not keep others waiting for long.
func (r *Requests) Continue(k types.NamespacedName) { r.add(k, continuePriority) }

func (r *Requests) add(k types.NamespacedName, priority int) {
	r.mu.Lock()
	q := r.queue
	r.mu.Unlock()
	request := reconcile.Request{NamespacedName: k}
	switch q := q.(type) {
	case nil:
	case priorityqueue.PriorityQueue[reconcile.Request]:
		q.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, request)
	default:
		q.Add(request)
	}
}

// EnqueueMachine requests a pass over the Bottle whose machine has the name.
func (r *Requests) EnqueueMachine(name string) {
	if k, ok := r.registry.KeyOfMachine(name); ok {
		r.Enqueue(k)
	}
}

// ContinueUID is Continue for the Bottle with the UID.
func (r *Requests) ContinueUID(uid string) {
	if k, ok := r.registry.Key(uid); ok {
		r.Continue(k)
	}
}

// EnqueueUID requests a pass over the Bottle with the UID, or over all Bottles
// if uid is "".
func (r *Requests) EnqueueUID(uid string) {
	if uid == "" {
		r.EnqueueAll()
		return
	}
	if k, ok := r.registry.Key(uid); ok {
		r.Enqueue(k)
	}
}

// EnqueueAll requests a pass over every Bottle.
func (r *Requests) EnqueueAll() {
	for _, k := range r.registry.All() {
		r.Enqueue(k)
	}
}
