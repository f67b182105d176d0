// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/accesscert"
	"botbottle.dev/bottle-operator/internal/environments"
)

// newEnvironments returns the storage of bottleenvironments, and adds what fills it
// to mgr. Every replica serves it, to the agents of the operator in the namespace.
func newEnvironments(ctx context.Context, mgr ctrl.Manager, namespace string) (*environments.Storage, error) {
	store, err := environments.New(mgr.GetConfig())
	if err != nil {
		return nil, err
	}
	bottles, err := mgr.GetCache().GetInformer(ctx, &v1alpha1.Bottle{}, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("follow Bottles: %w", err)
	}
	if err := store.Follow(bottles); err != nil {
		return nil, err
	}
	// Another manager in the same process, as in tests, keeps its metrics.
	if err := metrics.Registry.Register(store); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return environments.NewStorage(store, accesscert.AgentUser(namespace)), mgr.Add(store)
}
