// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"botbottle.dev/bottle-operator/internal/agentmetrics"
	"botbottle.dev/bottle-operator/internal/population"
)

func TestMetrics(t *testing.T) {
	w := newWorld(t, demo().Obj())
	reg := prometheus.NewPedanticRegistry()
	m, err := agentmetrics.New(reg)
	if err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(population.New(w.api.Client, testNode))
	w.change(func(o *Options) { o.Metrics = m })
	w.settle(demoKey)
	w.machines.Kill(testID)
	w.r.view.Invalidate(testID)
	w.settle(demoKey)

	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[strings.TrimPrefix(name, "bottle_agent_")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"machine_losses_total":           1,
		"machine_starts_total succeeded": 2,
	}
	conditions := map[string]float64{
		"BundleReady": 1, "EgressEnforced": 1, "MachineReady": 1, "NetworkReady": 1, "Ready": 1, "Scheduled": 1, "SmolfileReady": 1,
	}
	for _, typ := range furtherSteps(conditions) {
		conditions[typ.Type] = 1
	}
	for typ, n := range conditions {
		want["bottles "+typ+" True"] = n
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) != 0 {
		t.Errorf("conventions: got %v %v, want no problem", problems, err)
	}
}
