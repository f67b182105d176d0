// SPDX-License-Identifier: Apache-2.0

// Package population is the metric that counts a node's Bottles.
package population

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// population counts the node's Bottles by condition, on each scrape.
type population struct {
	reader client.Reader
	node   string
	desc   *prometheus.Desc
}

// New returns a collector that counts the node's Bottles by condition.
func New(reader client.Reader, node string) prometheus.Collector {
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
