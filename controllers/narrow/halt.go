// SPDX-License-Identifier: Apache-2.0

package narrow

import (
	"context"
	"errors"
	"sync"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
)

// stopPatience is how long smolvm may take to let a guest shut down, before
// its machine is killed.
const stopPatience = 30 * time.Second

// listPatience is how long smolvm may take to say whose a machine is.
const listPatience = 5 * time.Second

// What Halt needs of others.
type (
	// Machines is the part of host.Machines that stops.
	Machines interface {
		VMMs(ctx context.Context, names []string) ([]host.VMM, error)
		StopMachine(ctx context.Context, name string) error
		KillMachine(ctx context.Context, name string) error
	}
	// View is the list of the node's machines.
	View interface {
		Get(ctx context.Context, name string) (m host.Machine, present bool, err error)
	}
	// Starts are the starts of machines that are under way.
	Starts interface {
		Cancel(ctx context.Context, uid string) error
	}
)

// Halt stops the machines of Bottles that are stopped, deleted or evicted.
type Halt struct {
	Bottles
	Machines Machines
	View     View
	Starts   Starts
	// Stops remembers whose machines were stopped.
	Stops *Stops
}

// Reconcile stops the machine of one Bottle if it is to be down.
func (h *Halt) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	b, err := h.get(ctx, req.NamespacedName)
	if err != nil || b == nil || !desired.Leaving(b) && !desired.Stopped(b) {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, h.stop(ctx, h.Owner(b))
}

// SetupWithManager adds the controller to mgr, whose cache holds this node's
// Bottles.
func (h *Halt) SetupWithManager(mgr ctrl.Manager) error { return setup(mgr, "bottle-halt", h) }

// stop ends the Bottle's machine: by smolvm, which lets the guest shut down,
// and if that fails or takes too long, by a kill.
func (h *Halt) stop(ctx context.Context, owner host.Owner) error {
	name := owner.ID()
	bounded, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	err := h.Starts.Cancel(bounded, owner.UID)
	vmms, lookErr := h.Machines.VMMs(ctx, []string{name})
	if err == nil && lookErr == nil && len(vmms) == 0 || h.isOthers(ctx, owner) {
		return nil
	}
	h.Stops.add(owner.UID)
	if err == nil {
		err = h.Machines.StopMachine(bounded, name)
	}
	if err == nil {
		return nil
	}
	logf.FromContext(ctx).Info("The machine could not be stopped and is killed", "machine", name, "error", err.Error())
	if killErr := h.Machines.KillMachine(ctx, name); killErr != nil {
		return errors.Join(err, killErr)
	}
	return nil
}

// isOthers says whether the machine of our name is known to be someone else's.
// If smolvm does not answer in time, it counts as ours.
func (h *Halt) isOthers(ctx context.Context, owner host.Owner) bool {
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	m, present, err := h.View.Get(ctx, owner.ID())
	return err == nil && present && m.UID != "" && m.UID != owner.UID
}

// Stops are the Bottles whose machines Halt has stopped: that they are down is
// no loss. The zero value has none.
type Stops struct {
	mu   sync.Mutex
	uids map[string]bool
}

func (s *Stops) add(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uids == nil {
		s.uids = map[string]bool{}
	}
	s.uids[uid] = true
}

// Take says whether the Bottle's machine was stopped, and forgets it.
func (s *Stops) Take(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.uids[uid]
	delete(s.uids, uid)
	return taken
}
