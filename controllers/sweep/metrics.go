// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count orphans. A nil Metrics counts nothing.
type Metrics struct {
	orphans prometheus.Gauge
	removed *prometheus.CounterVec
}

// NewMetrics registers the metrics of a Sweeper.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		orphans: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bottle_agent_orphans",
			Help: "Bottles that are unknown to the API server but left something on the node.",
		}),
		removed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bottle_agent_orphans_removed_total",
			Help: "Attempts to remove an orphan from the node, by result.",
		}, []string{"result"}),
	}
	return m, errors.Join(reg.Register(m.orphans), reg.Register(m.removed))
}

func (m *Metrics) set(orphans int) {
	if m != nil {
		m.orphans.Set(float64(orphans))
	}
}

func (m *Metrics) count(result string) {
	if m != nil {
		m.removed.WithLabelValues(result).Inc()
	}
}
