// SPDX-License-Identifier: Apache-2.0

package agenttoken

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics show whether the token is renewed in time.
type Metrics struct {
	expiration prometheus.Gauge
	failures   prometheus.Counter
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		expiration: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bottle_agent_token_expiration_timestamp_seconds",
			Help: "When the agent's token expires, as a Unix time.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_token_renewal_failures_total",
			Help: "Attempts to renew the agent's token that failed.",
		}),
	}
	return m, errors.Join(registry.Register(m.expiration), registry.Register(m.failures))
}

func (m *Metrics) expires(at time.Time) { m.expiration.Set(float64(at.Unix())) }

func (m *Metrics) failed() { m.failures.Inc() }
