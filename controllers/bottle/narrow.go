// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"
	"time"

	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
)

// What the narrower needs of others.
type (
	reachNarrower interface {
		// Narrow is that of enforce.Enforcement.
		Narrow(ctx context.Context, owner host.Owner, reach enforce.Reach) error
	}
	machineStopper interface {
		VMMs(ctx context.Context, names []string) ([]host.VMM, error)
		StopMachine(ctx context.Context, name string) error
		KillMachine(ctx context.Context, name string) error
	}
	startCanceler interface {
		Cancel(ctx context.Context, uid string) error
	}
)

// narrower applies at once whatever a change of a Bottle takes away from its
// guest: egress rules, ports of the bundle, and the machine itself. It is a
// controller of its own, with workers of its own, because a pass over the
// Bottle, or over another one, may be waiting for dockerd, for a Secret or for
// an image. What a change adds is left to the passes.
type narrower struct {
	client      client.Reader
	node        string
	owner       func(*v1alpha1.Bottle) host.Owner
	enforcement reachNarrower
	machines    machineStopper
	starts      startCanceler
}

// stopPatience is how long smolvm may take to let a guest shut down, before
// its machine is killed.
const stopPatience = 30 * time.Second

// Reconcile narrows what one Bottle may reach to what its spec says now.
func (n *narrower) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	b := &v1alpha1.Bottle{}
	if err := n.client.Get(ctx, req.NamespacedName, b); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if ptr.Deref(b.Status.NodeName, "") != n.node {
		return ctrl.Result{}, nil
	}
	if leaving(b) || stopped(b) {
		return ctrl.Result{}, n.stop(ctx, n.owner(b))
	}
	// A rule that cannot be understood allows nothing. The bundle step says so.
	rules, _ := rulesOf(b)
	reach := enforce.Reach{Generation: b.Generation, Ports: bundlePorts(b), Rules: rules}
	if err := n.enforcement.Narrow(ctx, n.owner(b), reach); err != nil {
		return ctrl.Result{}, fmt.Errorf("narrow what bottle %s may reach: %w", req, err)
	}
	return ctrl.Result{}, nil
}

// stop ends the Bottle's machine: by smolvm, which lets the guest shut down,
// and if that fails or takes too long, by a kill.
func (n *narrower) stop(ctx context.Context, owner host.Owner) error {
	name := owner.ID()
	if err := n.starts.Cancel(ctx, owner.UID); err != nil {
		return err
	}
	vmms, err := n.machines.VMMs(ctx, []string{name})
	if err == nil && len(vmms) == 0 {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if err := n.machines.StopMachine(bounded, name); err != nil {
		logf.FromContext(ctx).Info("The machine could not be stopped and is killed", "machine", name, "error", err.Error())
		return n.machines.KillMachine(ctx, name)
	}
	return nil
}
