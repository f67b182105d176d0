// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"testing"

	"github.com/spf13/pflag"
)

// TestMetricsAreSecure checks that /metrics is open only on loopback addresses or
// if the flag says so.
func TestMetricsAreSecure(t *testing.T) {
	for _, tt := range []struct {
		args             []string
		agent, manager   bool
		noMetricsAtAll   bool
		wantManagersAddr string
	}{
		{args: nil, agent: false, manager: true, wantManagersAddr: ":8443"},
		{args: []string{"--metrics-bind-address=:8080"}, agent: true, manager: true, wantManagersAddr: ":8080"},
		{args: []string{"--metrics-bind-address=0.0.0.0:8080"}, agent: true, manager: true, wantManagersAddr: "0.0.0.0:8080"},
		{args: []string{"--metrics-bind-address=[::]:8080"}, agent: true, manager: true, wantManagersAddr: "[::]:8080"},
		{args: []string{"--metrics-bind-address=node.example:8080"}, agent: true, manager: true, wantManagersAddr: "node.example:8080"},
		{args: []string{"--metrics-bind-address=192.0.2.1:8080"}, agent: true, manager: true, wantManagersAddr: "192.0.2.1:8080"},
		{args: []string{"--metrics-bind-address=[::1]:8080"}, wantManagersAddr: "[::1]:8080"},
		{args: []string{"--metrics-bind-address=127.1.2.3:8080"}, wantManagersAddr: "127.1.2.3:8080"},
		{args: []string{"--metrics-bind-address=localhost:8080"}, wantManagersAddr: "localhost:8080"},
		{args: []string{"--metrics-bind-address=:8080", "--metrics-secure=false"}, wantManagersAddr: ":8080"},
		{args: []string{"--metrics-bind-address=127.0.0.1:8080", "--metrics-secure"}, agent: true, manager: true, wantManagersAddr: "127.0.0.1:8080"},
		{args: []string{"--metrics-bind-address=0"}, noMetricsAtAll: true, wantManagersAddr: "0"},
		{args: []string{"--metrics-bind-address="}, noMetricsAtAll: true, wantManagersAddr: "0"},
	} {
		agent, manager := &AgentOptions{}, &ManagerOptions{}
		for _, bind := range []func(*pflag.FlagSet){agent.Bind, manager.Bind} {
			fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
			bind(fs)
			if err := fs.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
		}
		if agent.Metrics.enabled() == tt.noMetricsAtAll {
			t.Errorf("%q: got metrics %v, want %v", tt.args, agent.Metrics.enabled(), !tt.noMetricsAtAll)
		}
		if got := agent.Metrics.enabled() && agent.Metrics.isSecure(); got != tt.agent {
			t.Errorf("%q: the agent is secure: got %v, want %v", tt.args, got, tt.agent)
		}
		got, err := manager.Metrics.server()
		if err != nil {
			t.Fatal(err)
		}
		if got.SecureServing != tt.manager || (got.FilterProvider != nil) != tt.manager || got.BindAddress != tt.wantManagersAddr {
			t.Errorf("%q: the manager serves on %q, secure %v, filtered %v; want %q and %v", tt.args, got.BindAddress, got.SecureServing, got.FilterProvider != nil, tt.wantManagersAddr, tt.manager)
		}
	}
}
