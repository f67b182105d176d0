// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestMetrics(t *testing.T) {
	w := newWorld(t, demo().Obj())
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	reg.MustRegister(NewPopulation(w.api.Client, testNode))
	w.r.Options.Metrics = m
	w.r.Options = Measured(w.r.Options)
	w.faults.Fail("EnsureBundle", 0, 1, fmt.Errorf("docker: %w", host.ErrUnavailable))
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
			if strings.HasPrefix(name, "bottle_agent_host_call_duration_seconds") {
				continue
			}
			got[strings.TrimPrefix(name, "bottle_agent_")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"host_call_errors_total EnsureBundle unavailable": 1,
		"machine_losses_total":                            1,
		"machine_starts_total succeeded":                  2,
		"bottles BundleReady True":                        1,
		"bottles EgressEnforced True":                     1,
		"proofs_total proven":                             2,
		"bottles MachineReady True":                       1,
		"bottles NetworkReady True":                       1,
		"bottles Ready True":                              1,
		"bottles Scheduled True":                          1,
		"bottles SmolfileReady True":                      1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) != 0 {
		t.Errorf("conventions: got %v %v, want no problem", problems, err)
	}
}

func TestKindOf(t *testing.T) {
	for want, errs := range map[string][]error{
		"":            {nil, host.ErrNotFound, context.Canceled},
		"unavailable": {host.ErrUnavailable},
		"conflict":    {host.ErrConflict, host.ErrOverlap},
		"refused":     {host.ErrInvalid, host.ErrUnsupported},
		"boot_failed": {host.ErrBootFailed},
		"timeout":     {context.DeadlineExceeded},
		"other":       {errors.New("x")},
	} {
		for _, err := range errs {
			if got := kindOf(err); got != want {
				t.Errorf("%v: got %q, want %q", err, got, want)
			}
		}
	}
}
