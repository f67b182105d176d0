// SPDX-License-Identifier: Apache-2.0

// Package exits notices when the VMMs of this node's machines exit. Without it, an exit
// would be noticed only by the next poll of the list of machines.
package exits

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/passes"
	"botbottle.dev/bottle-operator/internal/state"
)

// Watch watches VMMs, and requests a pass over a Bottle when its VMM exits.
type Watch struct {
	machines host.Machines
	view     *machineview.View
	requests *passes.Requests

	mu      sync.Mutex
	ctx     context.Context      // ends the watches, which outlive a pass
	watched map[string]state.Run // by UID
}

// New returns a Watch of machines. It invalidates a machine in view when the
// machine's VMM exits.
func New(machines host.Machines, view *machineview.View, requests *passes.Requests) *Watch {
	return &Watch{machines: machines, view: view, requests: requests, ctx: context.Background(), watched: map[string]state.Run{}}
}

// Bind sets the context that ends the watches that start from now on.
func (w *Watch) Bind(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ctx = ctx
}

// Forget forgets the VMMs of these Bottles.
func (w *Watch) Forget(uids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, uid := range uids {
		delete(w.watched, uid)
	}
}

// Start watches the VMM of the machine m of the Bottle with this key and UID,
// unless it is watched already.
func (w *Watch) Start(ctx context.Context, k types.NamespacedName, uid string, m host.Machine) {
	if m.PID == 0 {
		return
	}
	run := lifecycle.RunOf(m)
	w.mu.Lock()
	last, watched := w.watched[uid]
	w.watched[uid] = run
	watchCtx := w.ctx
	w.mu.Unlock()
	if watched && lifecycle.SameRun(last, run) {
		return
	}
	err := w.machines.WatchExit(watchCtx, m, func(name string) {
		w.view.Invalidate(name)
		w.requests.Enqueue(k)
	})
	if err != nil {
		logf.FromContext(ctx).V(1).Info("The VMM cannot be watched; the poll will notice its exit", "machine", m.Name, "error", err.Error())
	}
}
