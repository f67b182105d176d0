// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/internal/subnetchoice"
)

// Surroundings is implemented by *surroundings.Source.
type Surroundings interface {
	Reserved() []subnet.Reserved
	Inspect(owner host.Owner, p netip.Prefix) (hidden, routed string)
	Forget(owner host.Owner)
	Subscribe(changed func(uid string))
}

// networkStep allocates the Bottle's subnet and creates its network.
type networkStep struct {
	runtimes     Runtimes
	events       *reporter
	networks     host.Networks
	surroundings Surroundings
	chooser      subnetchoice.Chooser
	causes       outcome.Causes
}

// ensure keeps the subnet of the network if that exists, or the subnet
// recorded in the status if that is still free. Otherwise it picks one.
func (n *networkStep) ensure(ctx context.Context, s *scope) error {
	kind, err := n.runtimes.Choose(ctx, s.bottle)
	if err != nil {
		return outcome.Map(err, outcome.Reasons{Unavailable: v1alpha1.ReasonContainerRuntimeUnavailable})
	}
	s.runtime = kind
	reasons := n.causes.Bundle(ctx, kind, s.owner, v1alpha1.ReasonNetworkConflict)
	found, err := n.networks.InspectNetwork(ctx, s.owner)
	if err := n.reportReplaced(s); err != nil {
		return err
	}
	switch {
	case errors.Is(err, host.ErrNotFound):
		if err := n.create(ctx, s); err != nil {
			return outcome.Map(err, reasons)
		}
	case err != nil:
		return outcome.Map(err, reasons)
	default:
		triple, err := subnet.TripleOf(found.Subnet)
		if err != nil {
			return fmt.Errorf("network of bottle %s: %w", s.key(), err)
		}
		s.triple = triple
		if found.Gateway != triple.Gateway {
			found.Owner, found.Gateway = s.owner, triple.Gateway
			if err := n.networks.EnsureNetwork(ctx, found); err != nil {
				return outcome.Map(err, reasons)
			}
		}
	}
	s.status.Network = &v1alpha1.NetworkStatus{
		Subnet:   s.triple.Subnet.String(),
		Gateway:  s.triple.Gateway.String(),
		BundleIP: s.triple.BundleIP.String(),
	}
	if kind == bundleruntime.Pod {
		if s.status.Bundle == nil { // a teardown without a state folder learns the runtime from this
			s.status.Bundle = &v1alpha1.BundleStatus{Name: s.name(), Runtime: ptr.To(kind.Reported())}
		}
		return nil // the subnet exists only in the Pod and behind the wall
	}
	hidden, routed := n.surroundings.Inspect(s.owner, s.triple.Subnet)
	if routed != "" {
		return &flow.Waiting{Reason: v1alpha1.ReasonRouteConflict, Message: routed, After: externalDelay}
	}
	s.hidden = hidden
	return nil
}

// expect fills in the subnet that a Bottle in a Pod will get, unless the Pod uses it itself.
func (n *networkStep) expect(s *scope) (err error) {
	if s.triple, err = subnet.TripleOf(agentstatus.RecordedSubnet(s.bottle)); err != nil {
		s.triple, err = n.chooser.Pool.Pick(s.owner.Slug, nil, nil)
	}
	return err
}

// ensureDown is ensure for a Bottle whose machine is down. Its Pod may be gone, and with it
// the network: the addresses stay. If the Pod is there, InspectNetwork protects its bundle.
func (n *networkStep) ensureDown(ctx context.Context, s *scope) error {
	if s.runtime == bundleruntime.Pod {
		if triple, err := subnet.TripleOf(agentstatus.RecordedSubnet(s.bottle)); err == nil {
			s.triple = triple
			if _, err = n.networks.InspectNetwork(ctx, s.owner); errors.Is(err, host.ErrNotFound) {
				return nil
			}
			return outcome.Map(err, n.causes.Bundle(ctx, s.runtime, s.owner, v1alpha1.ReasonNetworkConflict))
		}
	}
	return n.ensure(ctx, s)
}

// reportReplaced records an Event if the Pod of a running machine got another namespace.
func (n *networkStep) reportReplaced(s *scope) error {
	replaced, err := n.runtimes.TakeReplaced(s.owner.UID)
	if replaced && s.record != nil && s.record.Run != nil {
		n.events.event(s, "Warning", v1alpha1.ReasonSandboxReplaced, bundleruntime.ReplacedMessage)
	}
	return err
}

// create creates the network on the recorded subnet, or on the next free one.
func (n *networkStep) create(ctx context.Context, s *scope) (err error) {
	r := subnetchoice.Request{Owner: s.owner, Kept: agentstatus.RecordedSubnet(s.bottle), Movable: s.record == nil, InPod: s.runtime == bundleruntime.Pod}
	if !r.InPod {
		r.Reserved = n.surroundings.Reserved()
	}
	s.triple, err = n.chooser.Create(ctx, r)
	return err
}

// delete removes the network and checks that it is gone.
func (n *networkStep) delete(ctx context.Context, s *scope) error {
	n.surroundings.Forget(s.owner)
	reasons := n.causes.Bundle(ctx, s.runtime, s.owner, "")
	if err := n.networks.DeleteNetwork(ctx, s.owner); err != nil {
		return outcome.Map(err, reasons)
	}
	_, err := n.networks.InspectNetwork(ctx, s.owner)
	return outcome.RequireGone(err, reasons, "the bundle's network")
}
