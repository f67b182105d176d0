// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"fmt"
	"net/netip"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
)

// leasePrefix and the name of a node are the name of the Lease of the node's agent.
const leasePrefix = "bottle-agent-"

// target is a Bottle on its node.
type target struct {
	bottle *v1alpha1.Bottle
	node   string
	// address is the agent's IP:PORT.
	address string
}

// path returns the path of a request to the agent.
func (t *target) path(verb string) string {
	b := t.bottle
	return "/v1/bottles/" + b.Namespace + "/" + b.Name + "/" + string(b.UID) + "/" + verb
}

// finder finds Bottles and their agents. Its reader is not cached: a user who has
// just seen that a Bottle is Ready must not hear that it is not.
type finder struct {
	reader client.Reader
	// cache reads the agents' Leases, too: the address in one hardly ever changes, and
	// whoever answers there has to prove that it is the node's agent. For Bottles, it
	// serves guess alone.
	cache client.Reader
	// namespace has the agents' Leases.
	namespace string
}

// bottle returns a Bottle. Its errors are for the user.
func (f *finder) bottle(ctx context.Context, namespace, name string) (*v1alpha1.Bottle, error) {
	b := &v1alpha1.Bottle{}
	err := f.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, b)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(bottles(), name)
	}
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("read the Bottle: %w", err))
	}
	return b, nil
}

// target returns where the agent of a Bottle answers. Its errors are for the user.
func (f *finder) target(ctx context.Context, b *v1alpha1.Bottle) (*target, error) {
	node := ptr.Deref(b.Status.NodeName, "")
	if node == "" {
		return nil, conflict(b, "it is not on a node yet: "+conditionText(b, v1alpha1.ConditionScheduled))
	}
	address, err := f.address(ctx, f.cache, node)
	if err == nil && address == "" {
		address, err = f.address(ctx, f.reader, node) // the agent may have just started
	}
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("read the Lease of the agent: %w", err))
	}
	if address == "" {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("the agent of node %s does not serve the access API: it is not running, is older than the manager, or was started with --access-bind-address=0", node))
	}
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("the Lease of the agent of node %s has no valid IP:PORT in the annotation %s", node, v1alpha1.AnnotationAgentAddress))
	}
	own, err := f.owns(ctx, f.cache, node, parsed.Addr())
	if err == nil && !own {
		own, err = f.owns(ctx, f.reader, node, parsed.Addr())
	}
	switch {
	case err != nil:
		return nil, apierrors.NewInternalError(fmt.Errorf("read the Node: %w", err))
	case !own:
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("the Lease of the agent of node %s has an address that is not one of the Node's (status.addresses): "+
			"start the agent with one of those as its --access-advertise-address", node))
	}
	return &target{bottle: b, node: node, address: address}, nil
}

// owns reports whether an address is one of the node's. The agent writes its Lease itself,
// and must not make the manager connect to anything else.
func (f *finder) owns(ctx context.Context, from client.Reader, name string, address netip.Addr) (bool, error) {
	node := &corev1.Node{}
	if err := from.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	for _, a := range node.Status.Addresses {
		if own, err := netip.ParseAddr(a.Address); err == nil && own.Unmap() == address.Unmap() {
			return true, nil
		}
	}
	return false, nil
}

// address returns what the Lease of a node's agent says about its address, or "".
func (f *finder) address(ctx context.Context, from client.Reader, node string) (string, error) {
	lease := &coordinationv1.Lease{}
	err := from.Get(ctx, client.ObjectKey{Namespace: f.namespace, Name: leasePrefix + node}, lease)
	return lease.Annotations[v1alpha1.AnnotationAgentAddress], client.IgnoreNotFound(err)
}

// guess returns what target will probably return for a Bottle whose machine runs; nil if
// the cache knows none.
func (f *finder) guess(ctx context.Context, namespace, name string) *target {
	b := &v1alpha1.Bottle{}
	if f.cache.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, b) != nil || requireMachine(b) != nil {
		return nil
	}
	node := ptr.Deref(b.Status.NodeName, "")
	address, err := f.address(ctx, f.cache, node)
	parsed, invalid := netip.ParseAddrPort(address)
	if err != nil || invalid != nil {
		return nil
	}
	if own, err := f.owns(ctx, f.cache, node, parsed.Addr()); err != nil || !own {
		return nil
	}
	return &target{bottle: b, node: node, address: address}
}

// conflict returns the error for a Bottle whose state does not allow the request.
func conflict(b *v1alpha1.Bottle, why string) error {
	err := apierrors.NewConflict(bottles(), b.Name, nil)
	err.ErrStatus.Message = fmt.Sprintf("Bottle %s: %s", b.Name, why)
	err.ErrStatus.Details.UID = b.UID
	return err
}

// refusalText bounds what a message repeats of a condition.
const refusalText = 512

// conditionText says what a condition is, and why.
func conditionText(b *v1alpha1.Bottle, condition string) string {
	for _, c := range b.Status.Conditions {
		if c.Type == condition {
			return fmt.Sprintf("%s is %s (%s): %s", c.Type, c.Status, c.Reason, egress.Printable(c.Message, refusalText))
		}
	}
	return condition + " is Unknown"
}

// bottles is the resource that errors name.
func bottles() schema.GroupResource {
	return v1alpha1.GroupVersion.WithResource("bottles").GroupResource()
}
