// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// TestAgentWithoutAPIServer checks that an agent that starts while the API server
// and dockerd are down guards the machines that it finds and reports what it waits
// for.
func TestAgentWithoutAPIServer(t *testing.T) {
	a := newAgent(t, &rest.Config{Host: apiAddress, BearerToken: "hunter22", TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	a.recordWall(t)
	a.start(t)
	a.eventually(t, "the guard's first check", func() bool { return a.metric(lastCheck) > 0 })
	if code, body := a.get("/healthz"); code != 200 {
		t.Errorf("healthz: got %d %q, want 200", code, body)
	}
	const waiting = "waiting for the API server: it refuses connections"
	a.eventually(t, "readyz to be 503 with "+waiting, func() bool {
		code, body := a.get("/readyz")
		return code == 503 && strings.TrimSpace(body) == waiting
	})
	if got := a.metric(connected); got != 0 {
		t.Errorf("%s: got %v, want 0", connected, got)
	}
	before := a.metric(lastCheck)
	a.eventually(t, "the guard to check again", func() bool { return a.metric(lastCheck) >= before+5 })
	log := a.stop(t)
	if n := strings.Count(log, "Waiting for the API server"); n != 1 {
		t.Errorf("log: got the waiting message %d times, want once in\n%s", n, log)
	}
	if strings.Contains(log, "hunter22") {
		t.Errorf("log: got the token in it:\n%s", log)
	}
}

// TestAgentReconnects checks the agent while the API server appears, goes away
// and comes back.
func TestAgentReconnects(t *testing.T) {
	cfg := apienv.Start(t)
	server, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	as := apienv.AsServiceAccount(cfg, "bottle-agent")
	as.Host = apiAddress
	a := newAgent(t, as)
	a.recordWall(t)
	a.start(t)
	a.eventually(t, "the guard's first check", func() bool { return a.metric(lastCheck) > 0 })
	if code, body := a.get("/readyz"); code != 503 {
		t.Errorf("readyz before the API server is reachable: got %d %q, want 503", code, body)
	}
	disconnect := a.forward(t, server.Host)
	a.eventually(t, "the agent to be ready", func() bool { code, _ := a.get("/readyz"); return code == 200 })
	if got := a.metric(connected); got != 1 {
		t.Errorf("%s: got %v, want 1", connected, got)
	}
	disconnect()
	a.eventually(t, connected+" to be 0", func() bool { return a.metric(connected) == 0 })
	before := a.metric(lastCheck)
	a.eventually(t, "the guard to check again", func() bool { return a.metric(lastCheck) >= before+2 })
	a.forward(t, server.Host)
	a.eventually(t, connected+" to be 1 again", func() bool { return a.metric(connected) == 1 })
	a.stop(t)
}

// recordWall writes the record of a wall, as an earlier agent would have.
func (a *agent) recordWall(t *testing.T) {
	t.Helper()
	owner := host.Owner{UID: "0a1b2c3d-0000-4000-8000-000000000000", Namespace: "team-a", Name: "demo", Slug: "demo", Cluster: "c", Node: "n"}
	dir, err := state.Open(a.stateDir)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := dir.Folder(owner.UID)
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.Ensure(owner); err != nil {
		t.Fatal(err)
	}
	err = folder.WriteWall(state.Wall{Spec: host.WallSpec{
		Owner: owner, Subnet: netip.MustParsePrefix("192.168.44.0/24"),
		BundleIP: netip.MustParseAddr("192.168.44.2"), MachineIP: netip.MustParseAddr("192.168.44.3"), Ports: []int32{8888},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

const (
	lastCheck = "bottle_agent_wall_check_last_timestamp_seconds"
	connected = "bottle_agent_api_server_connected"
	// agentTimeout bounds each wait; it is long enough for a busy machine.
	agentTimeout = time.Minute
)

// userOf returns cfg's credentials for a kubeconfig.
func userOf(cfg *rest.Config) *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{
		Token: cfg.BearerToken, ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData,
		Impersonate: cfg.Impersonate.UserName, ImpersonateGroups: cfg.Impersonate.Groups,
	}
}
