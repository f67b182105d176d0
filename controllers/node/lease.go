// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// leaseSeconds is how long a renewal counts.
	leaseSeconds = 40
	// renewEvery leaves room for three renewals to fail.
	renewEvery = 10 * time.Second
)

// Lease renews the agent's own Lease, which shows that the agent is alive: a
// kubelet's Lease says nothing about the agent.
type Lease struct {
	// Client reads and writes without a cache.
	Client client.Client
	// Namespace is the Lease's own; Node is the agent's.
	Namespace, Node string
	Clock           clock.WithTicker

	held *coordinationv1.Lease // as last written
}

// LeaseName is the name of the Lease of the agent of a node.
func LeaseName(node string) string { return "bottle-agent-" + node }

// Start renews until ctx ends.
func (l *Lease) Start(ctx context.Context) error {
	log := logf.FromContext(ctx).WithName("lease")
	ticker := l.Clock.NewTicker(renewEvery)
	defer ticker.Stop()
	failing := false
	for {
		attempt, cancel := context.WithTimeout(ctx, renewEvery)
		err := l.renew(attempt)
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

// renew writes the Lease, and makes it when it is not there.
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

// update writes the Lease as it was last seen, reading it first when it was
// not seen yet.
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

func (l *Lease) fill(lease *coordinationv1.Lease, now metav1.MicroTime) {
	lease.Spec.HolderIdentity = ptr.To(l.Node)
	lease.Spec.LeaseDurationSeconds = ptr.To[int32](leaseSeconds)
	lease.Spec.RenewTime = &now
}
