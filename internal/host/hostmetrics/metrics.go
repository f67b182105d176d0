// SPDX-License-Identifier: Apache-2.0

// Package hostmetrics measures calls to docker and smolvm. It wraps the ports of
// internal/host and does not change what they do.
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
			Help:    "Duration of calls to docker and smolvm, by call.",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 12),
		}, []string{"call"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bottle_agent_host_call_errors_total",
			Help: "Failed calls to docker and smolvm, by call and kind of error.",
		}, []string{"call", "kind"}),
	}
	return m, errors.Join(reg.Register(m.calls), reg.Register(m.errors))
}

// call runs f and measures it as a call with this name.
func (m *Metrics) call(name string, f func() error) error {
	started := time.Now()
	err := f()
	m.calls.WithLabelValues(name).Observe(time.Since(started).Seconds())
	if kind := kindOf(err); kind != "" {
		m.errors.WithLabelValues(name, kind).Inc()
	}
	return err
}

// kindOf returns the metric label for an error's kind, or "" for an error that is
// not a failure.
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
