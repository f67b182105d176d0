// SPDX-License-Identifier: Apache-2.0

// Package agentmetrics counts what the agent does for Bottles and what happens to them.
package agentmetrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"botbottle.dev/bottle-operator/internal/host"
)

// Metrics holds the agent's metrics. A nil Metrics counts nothing.
type Metrics struct {
	starts  *prometheus.CounterVec
	losses  prometheus.Counter
	decided *prometheus.CounterVec

	requests, bytes *prometheus.CounterVec // by rule
	rules           labels
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
	m.rules.known = map[string]bool{}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bottle_agent_egress_requests_total",
		Help: "Requests to opened hosts, by the host of the rule that decided, and by verdict: allow, deny, fail.",
	}, []string{"rule", "verdict"})
	m.bytes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bottle_agent_egress_request_bytes_total",
		Help: "Bytes in the bodies of requests to opened hosts (direction sent) and in the bodies of the responses (direction received), by the host of the rule that matched.",
	}, []string{"rule", "direction"})
	for _, c := range []prometheus.Collector{m.starts, m.losses, m.decided, m.requests, m.bytes} {
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

// Decision counts a decision of a bundle by its verdict, and by its rule if it has one: the
// host of a rule in the Bottle's spec.
func (m *Metrics) Decision(d host.Decision) {
	if m == nil {
		return
	}
	n := float64(max(1, d.LeftOut))
	m.decided.WithLabelValues(d.Verdict).Add(n)
	if d.Rule == "" {
		return
	}
	rule := m.rules.label(d.Rule)
	m.requests.WithLabelValues(rule, d.Verdict).Add(n)
	m.bytes.WithLabelValues(rule, "sent").Add(float64(d.BytesIn))
	m.bytes.WithLabelValues(rule, "received").Add(float64(d.BytesOut))
}

// maxRules is how many rules have a label of their own. Tenants choose them.
const maxRules = 500

// otherRules is the label of all rules above maxRules.
const otherRules = "other"

// labels are the rules that have a label of their own.
type labels struct {
	mu    sync.Mutex
	known map[string]bool
}

func (l *labels) label(rule string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known[rule] {
		if len(l.known) >= maxRules {
			return otherRules
		}
		l.known[rule] = true
	}
	return rule
}

func result(err error) string {
	if err != nil {
		return "failed"
	}
	return "succeeded"
}
