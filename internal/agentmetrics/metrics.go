// SPDX-License-Identifier: Apache-2.0

// Package agentmetrics counts what the agent does for Bottles and what happens to them.
package agentmetrics

import "github.com/prometheus/client_golang/prometheus"

// Metrics holds the agent's metrics. A nil Metrics counts nothing.
type Metrics struct {
	starts  *prometheus.CounterVec
	losses  prometheus.Counter
	decided *prometheus.CounterVec
}

// New registers the agent's metrics.
func New(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bottle_agent_machine_starts_total",
			Help: "Finished machine starts, by result.",
		}, []string{"result"}),
		losses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_machine_losses_total",
			Help: "Machines that ended unexpectedly.",
		}),
	}
	m.decided = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bottle_agent_egress_decisions_total",
		Help: "Decisions of the built-in bundles, by verdict: allow, deny, fail.",
	}, []string{"verdict"})
	for _, c := range []prometheus.Collector{m.starts, m.losses, m.decided} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Started counts a finished start.
func (m *Metrics) Started(err error) {
	if m != nil {
		m.starts.WithLabelValues(result(err)).Inc()
	}
}

// Lost counts a machine that ended unexpectedly.
func (m *Metrics) Lost() {
	if m != nil {
		m.losses.Inc()
	}
}

// Decision counts n decisions of a bundle by their verdict in host.Decision.
func (m *Metrics) Decision(verdict string, n uint32) {
	if m != nil {
		m.decided.WithLabelValues(verdict).Add(float64(n))
	}
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "succeeded"
}
