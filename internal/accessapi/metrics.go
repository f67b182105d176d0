// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of sessions.
type metrics struct {
	open  *prometheus.GaugeVec
	total *prometheus.CounterVec
}

// newMetrics creates and registers the metrics. It reuses those that an earlier
// server in the same process registered.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	open, err := register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bottle_operator_access_sessions",
		Help: "Number of open sessions by verb: exec, attach, log or proof.",
	}, []string{"verb"}))
	if err != nil {
		return nil, err
	}
	total, err := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bottle_operator_access_requests_total",
		Help: "Number of requests for a session, restart or recreate by verb and result: Completed, Interrupted, or the reason of the error.",
	}, []string{"verb", "result"}))
	if err != nil {
		return nil, err
	}
	return &metrics{open: open, total: total}, nil
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing, nil
		}
	}
	return c, err
}

func (m *metrics) began(verb string)         { m.open.WithLabelValues(verb).Inc() }
func (m *metrics) closed(verb string)        { m.open.WithLabelValues(verb).Dec() }
func (m *metrics) ended(verb, result string) { m.total.WithLabelValues(verb, result).Inc() }
