// SPDX-License-Identifier: Apache-2.0

package environments

import (
	"github.com/prometheus/client_golang/prometheus"

	"botbottle.dev/bottle-operator/internal/namedwatch"
)

var (
	watchesDesc = prometheus.NewDesc("bottle_operator_environment_watches",
		"Number of watches of environments that this replica serves.", nil, nil)
	objectsDesc = prometheus.NewDesc("bottle_operator_environment_objects",
		"Number of Secrets and ConfigMaps that Bottles on nodes name, by what is known of them.", []string{"state"}, nil)
	bytesDesc = prometheus.NewDesc("bottle_operator_environment_bytes",
		"Size of the data of these Secrets and ConfigMaps in the memory of this replica.", nil, nil)
)

// Describe sends the descriptions of the metrics.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	ch <- watchesDesc
	ch <- objectsDesc
	ch <- bytesDesc
}

// Collect counts at each scrape.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	watches := 0
	for _, set := range s.watchers {
		watches += len(set)
	}
	s.mu.Unlock()
	states, bytes := s.watches.Totals()
	ch <- prometheus.MustNewConstMetric(watchesDesc, prometheus.GaugeValue, float64(watches))
	ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(bytes))
	for _, state := range []namedwatch.State{namedwatch.Unread, namedwatch.Present, namedwatch.NotFound, namedwatch.Forbidden} {
		ch <- prometheus.MustNewConstMetric(objectsDesc, prometheus.GaugeValue, float64(states[state]), string(stateOf(state)))
	}
}
