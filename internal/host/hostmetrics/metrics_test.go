// SPDX-License-Identifier: Apache-2.0

package hostmetrics

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func TestCallsAreMeasured(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := New(reg)
	if err != nil {
		t.Fatal(err)
	}
	faults := &hosttest.Faults{}
	fake := hosttest.NewNetworks(faults)
	networks, bundles, machines := m.Networks(fake), m.Bundles(hosttest.NewBundles(fake)), m.Machines(hosttest.NewMachines(faults))
	faults.Fail("ListBundles", hosttest.Before, 1, host.ErrUnavailable)
	for range 2 {
		_, _ = networks.ListNetworks(t.Context())
		_, _ = bundles.ListBundles(t.Context())
		_, _ = machines.ListMachines(t.Context())
		_, _, _ = bundles.Folders(t.Context(), host.Owner{UID: "u", Slug: "demo"})
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := ""
			for _, l := range m.Label {
				name += l.GetValue() + " "
			}
			got[name] = m.GetHistogram().GetSampleCount() + uint64(m.GetCounter().GetValue())
		}
	}
	want := map[string]uint64{"ListNetworks ": 2, "ListBundles ": 2, "ListMachines ": 2, "Folders ": 2, "ListBundles unavailable ": 1}
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
