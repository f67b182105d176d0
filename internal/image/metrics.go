// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the metrics of the store. A nil Metrics counts nothing.
type Metrics struct {
	bytes     prometheus.Gauge
	archives  prometheus.Gauge
	pulls     *prometheus.CounterVec
	durations prometheus.Histogram
	collected prometheus.Counter
	failures  prometheus.Counter
	short     prometheus.Gauge
}

// NewMetrics registers the store's metrics.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bottle_agent_image_store_bytes",
			Help: "Bytes of the image archives on the node, and of the layers that are kept for interrupted pulls.",
		}),
		archives: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bottle_agent_image_archives",
			Help: "Image archives on the node.",
		}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bottle_agent_image_pulls_total",
			Help: "Pulls that ended, by result: pulled, present (nothing had to be fetched), failed, disk_full.",
		}, []string{"result"}),
		durations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bottle_agent_image_pull_duration_seconds",
			Help:    "Time from the first request until the image is in the store, for images that had to be fetched.",
			Buckets: prometheus.ExponentialBuckets(0.25, 2, 13),
		}),
		collected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_image_collected_bytes_total",
			Help: "Bytes of image archives that were removed because the disk filled up or nothing used them.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bottle_agent_image_collect_failures_total",
			Help: "Errors while images were collected: items that could not be read or removed. They stay.",
		}),
		short: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bottle_agent_image_collect_short_bytes",
			Help: "Bytes that the last collection of images should have removed but could not, because the images are in use or too young: the disk stays above --image-gc-low, or a pull has no room. 0 if it removed enough.",
		}),
	}
	for _, c := range []prometheus.Collector{m.bytes, m.archives, m.pulls, m.durations, m.collected, m.failures, m.short} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) pulled(j *job, err error, d time.Duration) {
	if m == nil {
		return
	}
	var disk errDisk
	result := "present"
	switch {
	case errors.As(err, &disk) && !disk.broken:
		result = "disk_full"
	case err != nil:
		result = "failed"
	case j.result.fetched:
		result = "pulled"
		m.durations.Observe(d.Seconds())
	}
	m.pulls.WithLabelValues(result).Inc()
}

// collect counts a pass of Collect. It leaves the shortage as it was if the
// pass did not check the disk.
func (m *Metrics) collect(c *collection) {
	if m == nil {
		return
	}
	m.collected.Add(float64(c.Bytes))
	m.failures.Add(float64(c.failed))
	if c.diskChecked {
		m.short.Set(float64(c.Short))
	}
}

// measure sets the metrics of the files in the store.
func (m *Metrics) measure(f *files, p *partials) {
	if m == nil {
		return
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return // the next pull reports it
	}
	var bytes, archives int64
	for _, e := range entries {
		if !storedName.MatchString(e.Name()) {
			continue
		}
		if info, err := e.Info(); err == nil {
			bytes += info.Size()
			archives++
		}
	}
	m.bytes.Set(float64(bytes + p.size()))
	m.archives.Set(float64(archives))
}
