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
	"botbottle.dev/bottle-operator/internal/nodebottles"
)

// stopTimeout is how long smolvm may take to shut down a guest before its
// machine is killed.
const stopTimeout = 30 * time.Second

// listTimeout is how long smolvm may take to report who owns a machine.
const listTimeout = 5 * time.Second

// What Halt needs from other packages.
type (
	// Machines is the part of host.Machines that finds, stops and kills
	// machines.
	Machines interface {
		VMMs(ctx context.Context, names []string) ([]host.VMM, error)
		StopMachine(ctx context.Context, name string) error
		KillMachine(ctx context.Context, name string) error
	}
	// View is the list of the node's machines.
	View interface {
		Get(ctx context.Context, name string) (m host.Machine, present bool, err error)
	}
	// Starts cancels the starts of machines that are under way.
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
	// Stops records which Bottles' machines were stopped.
	Stops *Stops
}

// Reconcile stops the machine of one Bottle if it must not run.
func (h *Halt) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	b, err := h.get(ctx, req.NamespacedName)
	if err != nil || b == nil || !desired.Leaving(b) && !desired.Stopped(b) {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, h.stop(ctx, h.Owner(b))
}

// SetupWithManager adds the controller to mgr. The cache of mgr must hold this
// node's Bottles.
func (h *Halt) SetupWithManager(mgr ctrl.Manager) error {
	return setup(mgr, "bottle-halt", h, nodebottles.Options())
}

// stop stops the Bottle's machine through smolvm, which lets the guest shut
// down. If that fails or takes too long, it kills the machine.
func (h *Halt) stop(ctx context.Context, owner host.Owner) error {
	name := owner.ID()
	bounded, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := h.Starts.Cancel(bounded, owner.UID)
	vmms, listErr := h.Machines.VMMs(ctx, []string{name})
	if err == nil && listErr == nil && len(vmms) == 0 || h.belongsToOther(ctx, owner) {
		return nil
	}
	h.Stops.add(owner.UID)
	if err == nil {
		err = h.Machines.StopMachine(bounded, name)
	}
	if err == nil {
		return nil
	}
	logf.FromContext(ctx).Info("The machine could not be stopped and will be killed", "machine", name, "error", err.Error())
	if killErr := h.Machines.KillMachine(ctx, name); killErr != nil {
		return errors.Join(err, killErr)
	}
	return nil
}

// belongsToOther reports whether the machine with our name is known to belong
// to someone else. If smolvm does not answer in time, it counts as ours.
func (h *Halt) belongsToOther(ctx context.Context, owner host.Owner) bool {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	m, present, err := h.View.Get(ctx, owner.ID())
	return err == nil && present && m.UID != "" && m.UID != owner.UID
}

// Stops records the Bottles whose machines Halt has stopped, so that these
// machines do not count as lost. The zero value is empty.
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

// Take reports whether the Bottle's machine was stopped, and forgets it.
func (s *Stops) Take(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.uids[uid]
	delete(s.uids, uid)
	return taken
}
