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
	// leaseSeconds is how long a renewal is valid.
	leaseSeconds = 40
	// renewInterval allows three renewals in a row to fail.
	renewInterval = 10 * time.Second
)

// Lease renews the agent's own Lease, which shows that the agent is alive. The
// kubelet's Lease says nothing about the agent.
type Lease struct {
	// Client reads and writes without a cache.
	Client client.Client
	// Namespace is the Lease's namespace; Node is the agent's node.
	Namespace, Node string
	Clock           clock.WithTicker

	held *coordinationv1.Lease // as last written
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

func (l *Lease) fill(lease *coordinationv1.Lease, now metav1.MicroTime) {
	lease.Spec.HolderIdentity = ptr.To(l.Node)
	lease.Spec.LeaseDurationSeconds = ptr.To[int32](leaseSeconds)
	lease.Spec.RenewTime = &now
}
