// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const (
	// leaseSeconds is how long a renewal is valid.
	leaseSeconds = 40
	// renewInterval allows three renewals in a row to fail.
	renewInterval = 10 * time.Second
	// addressInterval is how often the Node's address is read.
	addressInterval = 5 * time.Minute
)

// Lease renews the agent's own Lease, which shows that the agent is alive. The
// kubelet's Lease says nothing about the agent.
type Lease struct {
	// Client reads and writes without a cache.
	Client client.Client
	// Namespace is the Lease's namespace; Node is the agent's node.
	Namespace, Node string
	Clock           clock.WithTicker
	// Access is where the agent serves the manager; the Lease's annotation says so. An
	// invalid address stands for the Node's InternalIP; port 0 means that the agent
	// does not serve.
	Access netip.AddrPort

	held     *coordinationv1.Lease // as last written
	internal netip.Addr            // the Node's InternalIP as last read
	readAt   time.Time
}

// LeaseName returns the name of the Lease of a node's agent.
func LeaseName(node string) string { return "bottle-agent-" + node }

// Start renews until ctx ends.
func (l *Lease) Start(ctx context.Context) error {
	log := logf.FromContext(ctx).WithName("lease")
	ticker := l.Clock.NewTicker(renewInterval)
	defer ticker.Stop()
	failing := false
	for {
		attempt, cancel := context.WithTimeout(ctx, renewInterval)
		err := errors.Join(l.findAddress(attempt), l.renew(attempt))
		cancel()
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			log.Error(err, "The agent's Lease cannot be renewed")
			failing = true
		case err == nil && failing:
			log.Info("The agent's Lease is renewed again")
			failing = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

// renew updates the Lease, or creates it if it does not exist.
func (l *Lease) renew(ctx context.Context) error {
	err := l.update(ctx)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		l.held = nil
		err = l.update(ctx)
	}
	if err != nil {
		return fmt.Errorf("renew lease %s/%s: %w", l.Namespace, LeaseName(l.Node), err)
	}
	return nil
}

// update updates the Lease as last written. If there is none it reads the
// Lease first, and creates it if it does not exist.
func (l *Lease) update(ctx context.Context) error {
	lease := l.held
	now := metav1.NewMicroTime(l.Clock.Now())
	if lease == nil {
		lease = &coordinationv1.Lease{}
		err := l.Client.Get(ctx, client.ObjectKey{Namespace: l.Namespace, Name: LeaseName(l.Node)}, lease)
		if apierrors.IsNotFound(err) {
			lease.Namespace, lease.Name = l.Namespace, LeaseName(l.Node)
			l.fill(lease, now)
			lease.Spec.AcquireTime = &now
			if err := l.Client.Create(ctx, lease); err != nil {
				return err
			}
			l.held = lease
			return nil
		}
		if err != nil {
			return err
		}
	}
	l.fill(lease, now)
	if err := l.Client.Update(ctx, lease); err != nil {
		return err
	}
	l.held = lease
	return nil
}

// findAddress reads the Node's InternalIP now and then.
func (l *Lease) findAddress(ctx context.Context) error {
	if l.Access.Port() == 0 || l.Access.Addr().IsValid() || l.internal.IsValid() && l.Clock.Since(l.readAt) < addressInterval {
		return nil
	}
	node := &corev1.Node{}
	if err := l.Client.Get(ctx, client.ObjectKey{Name: l.Node}, node); err != nil {
		return fmt.Errorf("read the address of node %s: %w", l.Node, err)
	}
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			l.internal, l.readAt = addr.Unmap(), l.Clock.Now()
			return nil
		}
	}
	return fmt.Errorf("node %s has no InternalIP: set --access-advertise-address", l.Node)
}

// annotate sets or removes the annotation with the agent's address.
func (l *Lease) annotate(lease *coordinationv1.Lease) {
	addr := l.Access.Addr()
	if !addr.IsValid() {
		addr = l.internal
	}
	switch {
	case l.Access.Port() == 0:
		delete(lease.Annotations, v1alpha1.AnnotationAgentAddress)
	case addr.IsValid():
		metav1.SetMetaDataAnnotation(&lease.ObjectMeta, v1alpha1.AnnotationAgentAddress, netip.AddrPortFrom(addr, l.Access.Port()).String())
	}
}

func (l *Lease) fill(lease *coordinationv1.Lease, now metav1.MicroTime) {
	l.annotate(lease)
	lease.Spec.HolderIdentity = ptr.To(l.Node)
	lease.Spec.LeaseDurationSeconds = ptr.To[int32](leaseSeconds)
	lease.Spec.RenewTime = &now
}
