// SPDX-License-Identifier: Apache-2.0

package passes

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
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

// Enqueue requests a pass over the Bottle.
func (r *Requests) Enqueue(k types.NamespacedName) {
	r.mu.Lock()
	q := r.queue
	r.mu.Unlock()
	if q != nil {
		q.Add(reconcile.Request{NamespacedName: k})
	}
}

// EnqueueMachine requests a pass over the Bottle whose machine has the name.
func (r *Requests) EnqueueMachine(name string) {
	if k, ok := r.registry.KeyOfMachine(name); ok {
		r.Enqueue(k)
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
