// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// Metrics counts what enforcement does. A nil Metrics counts nothing.
type Metrics struct {
	scans    prometheus.Histogram
	last     prometheus.Gauge
	raises   prometheus.Histogram
	faults   prometheus.Counter
	breaches prometheus.Counter
	leaks    prometheus.Counter
	hits     *prometheus.CounterVec
	proofs   *prometheus.CounterVec
}

// NewMetrics registers the metrics of enforcement.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		scans: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bottle_agent_wall_check_duration_seconds",
			Help:    "Duration of one check of all walls and machines.",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 9),
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bottle_agent_wall_check_last_timestamp_seconds",
			Help: "Unix time of the last check of all walls and machines.",
		}),
		raises: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bottle_agent_wall_raise_duration_seconds",
			Help:    "Time taken to inspect one Bottle's wall and make or repair it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 9),
		}),
		faults: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_wall_faults_total",
			Help: "Walls that were found not to be as specified.",
		}),
		breaches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_wall_breaches_total",
			Help: "Machines that were stopped because their wall did not hold.",
		}),
		leaks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_leaks_total",
			Help: "Machines that were stopped because something but the bundle was reached.",
		}),
		hits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bottle_agent_canary_touches_total",
			Help: "Hits on the agent's canaries, by origin: guest, bundle, node, elsewhere.",
		}, []string{"from"}),
		proofs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bottle_agent_proofs_total",
			Help: "Finished proofs of the egress walls, by result: proven, leak, not_observed, bundle_not_reached, failed.",
		}, []string{"result"}),
	}
	for _, c := range []prometheus.Collector{m.scans, m.last, m.raises, m.faults, m.breaches, m.leaks, m.hits, m.proofs} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) scanned(at time.Time, took time.Duration) {
	if m != nil {
		m.scans.Observe(took.Seconds())
		m.last.Set(float64(at.Unix()))
	}
}

func (m *Metrics) raised(d time.Duration) {
	if m != nil {
		m.raises.Observe(d.Seconds())
	}
}

func (m *Metrics) faulted() {
	if m != nil {
		m.faults.Inc()
	}
}

func (m *Metrics) breached() {
	if m != nil {
		m.breaches.Inc()
	}
}

func (m *Metrics) leaked() {
	if m != nil {
		m.leaks.Inc()
	}
}

func (m *Metrics) hit(from finding) {
	if m != nil {
		m.hits.WithLabelValues(string(from)).Inc()
	}
}

// proved counts a proof that ended. It counts as a leak if a leak was found,
// whether by the proof or by a canary.
func (m *Metrics) proved(v probe.Verdict, err error, leaked bool) {
	if m == nil {
		return
	}
	result := strings.ReplaceAll(string(v.Result), " ", "_")
	switch {
	case leaked:
		result = "leak"
	case err != nil:
		result = "failed"
	}
	m.proofs.WithLabelValues(result).Inc()
}

// dropped collects how many packets each Bottle's wall dropped. When it is
// scraped, it reads the counts that the guard read last, which may be half a
// minute old.
type dropped struct {
	watched *registry
	desc    *prometheus.Desc
}

// NewDropped returns a collector of how many packets each Bottle's wall dropped.
func NewDropped(e *Enforcer) prometheus.Collector {
	return &dropped{watched: e.watched, desc: prometheus.NewDesc("bottle_agent_wall_dropped_packets_total",
		"Packets from the Bottle's machine that its wall dropped.", []string{"namespace", "bottle"}, nil)}
}

func (d *dropped) Describe(ch chan<- *prometheus.Desc) { ch <- d.desc }

func (d *dropped) Collect(ch chan<- prometheus.Metric) {
	d.watched.mu.Lock()
	defer d.watched.mu.Unlock()
	// A deleted Bottle's machine may still exist beside that of a new Bottle
	// with the same name.
	sums := map[[2]string]uint64{}
	for _, m := range d.watched.machines {
		if o := m.wall.Spec.Owner; o.UID != "" {
			sums[[2]string{o.Namespace, o.Name}] += m.dropped
		}
	}
	for name, n := range sums {
		ch <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, float64(n), name[0], name[1])
	}
}
