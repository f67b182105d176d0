// SPDX-License-Identifier: Apache-2.0

package agentmetrics_test

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"botbottle.dev/bottle-operator/internal/agentmetrics"
	"botbottle.dev/bottle-operator/internal/host"
)

// value returns the value of a counter with these labels; -1 if there is none.
func value(t *testing.T, reg *prometheus.Registry, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			same := family.GetName() == name
			for _, l := range m.GetLabel() {
				same = same && labels[l.GetName()] == l.GetValue()
			}
			if same {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

func TestDecisionsByRule(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := agentmetrics.New(reg)
	if err != nil {
		t.Fatal(err)
	}
	const rule = "api.example.com:443"
	m.Decision(host.Decision{Verdict: host.VerdictAllow, Rule: rule, BytesIn: 10, BytesOut: 200})
	m.Decision(host.Decision{Verdict: host.VerdictAllow, Rule: rule, LeftOut: 6, BytesIn: 5})
	m.Decision(host.Decision{Verdict: host.VerdictDeny})
	for _, tt := range []struct {
		name   string
		labels map[string]string
		want   float64
	}{
		{"bottle_agent_egress_decisions_total", map[string]string{"verdict": "allow"}, 7},
		{"bottle_agent_egress_decisions_total", map[string]string{"verdict": "deny"}, 1},
		{"bottle_agent_egress_requests_total", map[string]string{"rule": rule, "verdict": "allow"}, 7},
		{"bottle_agent_egress_request_bytes_total", map[string]string{"rule": rule, "direction": "sent"}, 15},
		{"bottle_agent_egress_request_bytes_total", map[string]string{"rule": rule, "direction": "received"}, 200},
		{"bottle_agent_egress_requests_total", map[string]string{"rule": "", "verdict": "deny"}, -1},
	} {
		if got := value(t, reg, tt.name, tt.labels); got != tt.want {
			t.Errorf("%s%v: got %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("names: got %v, %v, want none that Prometheus' conventions forbid", problems, err)
	}
}

// Tenants choose the rules, so their number is bounded.
func TestLabelsAreBounded(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := agentmetrics.New(reg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		m.Decision(host.Decision{Verdict: host.VerdictAllow, Rule: fmt.Sprintf("h%d.example.com:443", i)})
	}
	if got, err := testutil.GatherAndCount(reg, "bottle_agent_egress_requests_total"); err != nil || got != 501 {
		t.Errorf("series: got %d, %v, want 500 rules and the others", got, err)
	}
	if got := value(t, reg, "bottle_agent_egress_requests_total", map[string]string{"rule": "other", "verdict": "allow"}); got != 1500 {
		t.Errorf("others: got %v, want 1500", got)
	}
}
