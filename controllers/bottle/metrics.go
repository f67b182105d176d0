// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Metrics holds the agent's metrics. A nil Metrics counts nothing.
type Metrics struct {
	starts  *prometheus.CounterVec
	losses  prometheus.Counter
	decided *prometheus.CounterVec
}

// NewMetrics registers the agent's metrics.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
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

// started counts a finished start.
func (m *Metrics) started(err error) {
	if m != nil {
		m.starts.WithLabelValues(result(err)).Inc()
	}
}

// lost counts a machine that ended unexpectedly.
func (m *Metrics) lost() {
	if m != nil {
		m.losses.Inc()
	}
}

// decision counts n decisions of a bundle by their verdict in host.Decision.
func (m *Metrics) decision(verdict string, n uint32) {
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

// population counts the node's Bottles by condition, from the cache, on each scrape.
type population struct {
	reader client.Reader
	node   string
	desc   *prometheus.Desc
}

// NewPopulation returns a collector that counts the node's Bottles by condition.
func NewPopulation(reader client.Reader, node string) prometheus.Collector {
	return &population{reader: reader, node: node, desc: prometheus.NewDesc("bottle_agent_bottles",
		"Bottles on the node by condition and its status.", []string{"condition", "status"}, nil)}
}

func (p *population) Describe(ch chan<- *prometheus.Desc) { ch <- p.desc }

func (p *population) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var list v1alpha1.BottleList
	if err := p.reader.List(ctx, &list); err != nil {
		ch <- prometheus.NewInvalidMetric(p.desc, err)
		return
	}
	counts := map[[2]string]int{}
	for _, b := range list.Items {
		if b.Status.NodeName == nil || *b.Status.NodeName != p.node {
			continue
		}
		for _, c := range b.Status.Conditions {
			counts[[2]string{c.Type, string(c.Status)}]++
		}
	}
	for k, n := range counts {
		ch <- prometheus.MustNewConstMetric(p.desc, prometheus.GaugeValue, float64(n), k[0], k[1])
	}
}
