// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"sync"

	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/passes"
	"botbottle.dev/bottle-operator/internal/state"
)

// exitWatch notices when the VMMs of this node's machines exit.
type exitWatch struct {
	machines host.Machines
	view     *machineview.View
	requests *passes.Requests

	mu      sync.Mutex
	ctx     context.Context      // ends the watches, which outlive a pass
	watched map[string]state.Run // by UID
}

// bind sets the context that ends the watches that start from now on.
func (e *exitWatch) bind(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ctx = ctx
}

func (e *exitWatch) forget(uids ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, uid := range uids {
		delete(e.watched, uid)
	}
}

// watch requests a pass as soon as the VMM exits. Without the watch, only the
// next poll would notice that.
func (e *exitWatch) watch(ctx context.Context, s *scope, m host.Machine) {
	if m.PID == 0 {
		return
	}
	run := lifecycle.RunOf(m)
	e.mu.Lock()
	last, watched := e.watched[s.owner.UID]
	e.watched[s.owner.UID] = run
	watchCtx := e.ctx
	e.mu.Unlock()
	if watched && lifecycle.SameRun(last, run) {
		return
	}
	k := s.key()
	err := e.machines.WatchExit(watchCtx, m, func(name string) {
		e.view.Invalidate(name)
		e.requests.Enqueue(k)
	})
	if err != nil {
		logf.FromContext(ctx).V(1).Info("The VMM cannot be watched; the poll will notice its exit", "machine", m.Name, "error", err.Error())
	}
}
