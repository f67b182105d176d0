// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/internal/envwatch"
)

// newEnvironmentWatch returns the agent's watch of what its Bottles name of Secrets
// and ConfigMaps. changed is called with each Bottle for which that changes.
func newEnvironmentWatch(mgr ctrl.Manager, changed func(bottle types.NamespacedName)) (*envwatch.Source, error) {
	client, err := envwatch.NewClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, err
	}
	counts, err := envwatch.NewMetrics(metrics.Registry)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return envwatch.New(envwatch.Options{
		Client: client, Changed: changed, Log: ctrl.Log.WithName("environments"), Metrics: counts,
	}), nil
}
