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

// exitWatch watches the VMMs of this node's machines for their end.
type exitWatch struct {
	machines host.Machines
	view     *machineview.View
	requests *passes.Requests

	mu      sync.Mutex
	ctx     context.Context      // of the watches, which outlive a pass
	watched map[string]state.Run // by UID
}

// bind makes the watches that start from now on end with ctx.
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

// watch requests a pass over the Bottle in the instant in which its VMM ends.
// The poll finds it out too, only later.
func (e *exitWatch) watch(ctx context.Context, s *scope, m host.Machine) {
	if m.PID == 0 {
		return
	}
	run := lifecycle.RunOf(m)
	e.mu.Lock()
	was, watched := e.watched[s.owner.UID]
	e.watched[s.owner.UID] = run
	until := e.ctx
	e.mu.Unlock()
	if watched && lifecycle.SameRun(was, run) {
		return
	}
	k := s.key()
	err := e.machines.WatchExit(until, m, func(name string) {
		e.view.Invalidate(name)
		e.requests.Enqueue(k)
	})
	if err != nil {
		logf.FromContext(ctx).V(1).Info("The VMM's end cannot be watched; the poll will notice it", "machine", m.Name, "error", err.Error())
	}
}
