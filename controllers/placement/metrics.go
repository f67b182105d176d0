// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// scrapeTimeout bounds how long a scrape waits for the cache.
const scrapeTimeout = 5 * time.Second

// placementMetrics are the metrics that placement records.
type placementMetrics struct{ duration prometheus.Histogram }

// registerMetrics creates and registers the metrics. It reuses those that an
// earlier manager in the same process registered.
func registerMetrics(reg prometheus.Registerer, bottles client.Reader, v *verdicts) (*placementMetrics, error) {
	m := &placementMetrics{duration: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "bottle_operator_placement_duration_seconds",
		Help:    "Time from the creation of a placeholder Pod, which is known in whole seconds, until its node was written to the Bottle.",
		Buckets: prometheus.ExponentialBuckets(0.25, 2, 14),
	})}
	if err := reg.Register(m.duration); err != nil {
		var already prometheus.AlreadyRegisteredError
		if !errors.As(err, &already) {
			return nil, err
		}
		m.duration = already.ExistingCollector.(prometheus.Histogram)
	}
	c := &collector{bottles: bottles, verdicts: v}
	if err := reg.Register(c); err != nil {
		var already prometheus.AlreadyRegisteredError
		if !errors.As(err, &already) {
			return nil, err
		}
	}
	return m, nil
}

func (m *placementMetrics) placed(created, now time.Time) {
	m.duration.Observe(max(now.Sub(created), 0).Seconds())
}

var (
	bottlesDesc = prometheus.NewDesc("bottle_operator_bottles",
		"Number of Bottles by the status and reason of their condition Ready.", []string{"ready", "reason"}, nil)
	agentsLostDesc = prometheus.NewDesc("bottle_operator_agents_lost",
		"Number of nodes whose agent stopped renewing its Lease.", nil, nil)
)

// collector counts the objects in the cache at each scrape.
type collector struct {
	bottles  client.Reader
	verdicts *verdicts
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- bottlesDesc
	ch <- agentsLostDesc
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(agentsLostDesc, prometheus.GaugeValue, float64(c.verdicts.agentsLost()))
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	list := &v1alpha1.BottleList{}
	if err := c.bottles.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		ch <- prometheus.NewInvalidMetric(bottlesDesc, err)
		return
	}
	type state struct{ ready, reason string }
	counts := map[state]int{}
	for i := range list.Items {
		s := state{"Unknown", ""}
		if ready := meta.FindStatusCondition(list.Items[i].Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			s = state{string(ready.Status), ready.Reason}
		}
		counts[s]++
	}
	for s, n := range counts {
		ch <- prometheus.MustNewConstMetric(bottlesDesc, prometheus.GaugeValue, float64(n), s.ready, s.reason)
	}
}
