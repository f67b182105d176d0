// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// requests requests passes over Bottles of this node. Before it is bound to a
// queue it does nothing.
type requests struct {
	registry *registry

	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func (r *requests) bind(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = q
}

// Enqueue requests a pass over the Bottle.
func (r *requests) Enqueue(k types.NamespacedName) {
	r.mu.Lock()
	q := r.queue
	r.mu.Unlock()
	if q != nil {
		q.Add(reconcile.Request{NamespacedName: k})
	}
}

// enqueueMachine requests a pass over the Bottle whose machine has the name.
func (r *requests) enqueueMachine(name string) {
	if k, ok := r.registry.KeyOfMachine(name); ok {
		r.Enqueue(k)
	}
}

// enqueueUID requests a pass over the Bottle with the UID, or over all for "".
func (r *requests) enqueueUID(uid string) {
	if uid == "" {
		r.enqueueAll()
		return
	}
	if k, ok := r.registry.Key(uid); ok {
		r.Enqueue(k)
	}
}

func (r *requests) enqueueAll() {
	for _, k := range r.registry.All() {
		r.Enqueue(k)
	}
}
