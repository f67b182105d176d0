// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

// Lease renews the agent's own Lease, which says that it is alive: a kubelet's
// says nothing of the agent.
type Lease struct {
	// Client writes without reading.
	Client client.Client
	// Namespace that the Lease lives in, and Node whose agent's it is.
	Namespace, Node string
	Clock           clock.WithTicker
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
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: l.Namespace, Name: LeaseName(l.Node)},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity:       ptr.To(l.Node),
			LeaseDurationSeconds: ptr.To[int32](leaseSeconds),
			RenewTime:            ptr.To(metav1.NewMicroTime(l.Clock.Now())),
		},
	}
	data, err := json.Marshal(map[string]any{"spec": lease.Spec})
	if err != nil {
		return fmt.Errorf("lease %s: %w", lease.Name, err)
	}
	err = l.Client.Patch(ctx, lease.DeepCopy(), client.RawPatch(types.MergePatchType, data))
	if apierrors.IsNotFound(err) {
		lease.Spec.AcquireTime = lease.Spec.RenewTime
		err = l.Client.Create(ctx, lease)
	}
	if err != nil {
		return fmt.Errorf("renew lease %s/%s: %w", lease.Namespace, lease.Name, err)
	}
	return nil
}
