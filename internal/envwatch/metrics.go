// SPDX-License-Identifier: Apache-2.0

package envwatch

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics show whether the agent hears from the manager. A nil *Metrics records
// nothing.
type Metrics struct {
	watching, last, count, bytes prometheus.Gauge
	failures                     prometheus.Counter
}

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "bottle_agent_environment" + name, Help: help})
	}
	m := &Metrics{
		watching: gauge("_watch_connected", "1 while the agent has a working watch of the values that its Bottles take from Secrets and ConfigMaps, else 0."),
		last:     gauge("_watch_last_event_timestamp_seconds", "Unix time of the last event of this watch. While nothing changes, there is one every minute."),
		count:    gauge("s", "Number of Bottles whose values the manager has sent."),
		bytes:    gauge("_bytes", "Size of these values in bytes."),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_environment_watch_failures_total",
			Help: "Number of such watches that failed.",
		}),
	}
	return m, errors.Join(registry.Register(m.watching), registry.Register(m.last), registry.Register(m.count),
		registry.Register(m.bytes), registry.Register(m.failures))
}

// connected records the number of working watches, which is 0 or 1.
func (m *Metrics) connected(watches int) {
	if m != nil {
		m.watching.Set(float64(watches))
	}
}

func (m *Metrics) received() {
	if m != nil {
		m.last.SetToCurrentTime()
	}
}

func (m *Metrics) failed() {
	if m != nil {
		m.failures.Inc()
	}
}

func (m *Metrics) known(environments, bytes int) {
	if m != nil {
		m.count.Set(float64(environments))
		m.bytes.Set(float64(bytes))
	}
}
