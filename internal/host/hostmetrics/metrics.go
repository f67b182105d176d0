// SPDX-License-Identifier: Apache-2.0

// Package hostmetrics measures the calls of docker and smolvm: it wraps the
// ports of internal/host and changes nothing about what they do.
package hostmetrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"botbottle.dev/bottle-operator/internal/host"
)

// Metrics are the durations and errors of calls.
type Metrics struct {
	calls  *prometheus.HistogramVec
	errors *prometheus.CounterVec
}

// New registers the metrics.
func New(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "bottle_agent_host_call_duration_seconds",
			Help:    "Time that calls of docker and smolvm took, by call.",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 12),
		}, []string{"call"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bottle_agent_host_call_errors_total",
			Help: "Failed calls of docker and smolvm, by call and kind of error.",
		}, []string{"call", "kind"}),
	}
	return m, errors.Join(reg.Register(m.calls), reg.Register(m.errors))
}

// call runs f, and measures it as a call of this name.
func (m *Metrics) call(name string, f func() error) error {
	started := time.Now()
	err := f()
	m.calls.WithLabelValues(name).Observe(time.Since(started).Seconds())
	if kind := kindOf(err); kind != "" {
		m.errors.WithLabelValues(name, kind).Inc()
	}
	return err
}

// kindOf returns the word for an error's kind, and "" for an answer that is no
// failure.
func kindOf(err error) string {
	switch {
	case err == nil, errors.Is(err, host.ErrNotFound), errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, host.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, host.ErrConflict), errors.Is(err, host.ErrOverlap):
		return "conflict"
	case errors.Is(err, host.ErrInvalid), errors.Is(err, host.ErrUnsupported):
		return "refused"
	case errors.Is(err, host.ErrBootFailed):
		return "boot_failed"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "other"
}
