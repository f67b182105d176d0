// SPDX-License-Identifier: Apache-2.0

package accesscert

import "github.com/prometheus/client_golang/prometheus"

// Register registers the metric that shows when the agent's certificate expires.
func (k *Keeper) Register(registry prometheus.Registerer) error {
	return registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bottle_agent_access_certificate_expiration_timestamp_seconds",
		Help: "When the certificate of the agent's access server expires, as a Unix time; 0 if it has none.",
	}, func() float64 {
		now := k.current.Load()
		if now == nil {
			return 0
		}
		return float64(now.cert.Leaf.NotAfter.Unix())
	}))
}
