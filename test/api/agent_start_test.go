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

// TestAgentWithoutAPIServer: an agent that starts during an outage, with dockerd
// away too, guards the machines that it finds, and reports what it waits for.
func TestAgentWithoutAPIServer(t *testing.T) {
	a := newAgent(t, &rest.Config{Host: apiAddress, BearerToken: "hunter22", TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	a.recordWall(t)
	a.start(t)
	a.eventually(t, "the guard to look", func() bool { return a.metric(lastLook) > 0 })
	if code, body := a.get("/healthz"); code != 200 {
		t.Errorf("healthz: got %d %q, want 200", code, body)
	}
	const waits = "waiting for the API server: it refuses connections"
	a.eventually(t, "readyz to be 503 with "+waits, func() bool {
		code, body := a.get("/readyz")
		return code == 503 && strings.TrimSpace(body) == waits
	})
	if got := a.metric(connected); got != 0 {
		t.Errorf("%s: got %v, want 0", connected, got)
	}
	looked := a.metric(lastLook)
	a.eventually(t, "the guard to look again", func() bool { return a.metric(lastLook) >= looked+5 })
	log := a.stop(t)
	if n := strings.Count(log, "Waiting for the API server"); n != 1 {
		t.Errorf("log: got the wait %d times, want once in\n%s", n, log)
	}
	if strings.Contains(log, "hunter22") {
		t.Errorf("log: got the token in it:\n%s", log)
	}
}

// TestAgentMeetsTheAPIServer: the API server appears, and goes away again.
func TestAgentMeetsTheAPIServer(t *testing.T) {
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
	a.eventually(t, "the guard to look", func() bool { return a.metric(lastLook) > 0 })
	if code, body := a.get("/readyz"); code != 503 {
		t.Errorf("readyz before the API server is there: got %d %q, want 503", code, body)
	}
	away := a.forward(t, server.Host)
	a.eventually(t, "the agent to be ready", func() bool { code, _ := a.get("/readyz"); return code == 200 })
	if got := a.metric(connected); got != 1 {
		t.Errorf("%s: got %v, want 1", connected, got)
	}
	away()
	a.eventually(t, connected+" to be 0", func() bool { return a.metric(connected) == 0 })
	looked := a.metric(lastLook)
	a.eventually(t, "the guard to look again", func() bool { return a.metric(lastLook) >= looked+2 })
	a.forward(t, server.Host)
	a.eventually(t, connected+" to be 1 again", func() bool { return a.metric(connected) == 1 })
	a.stop(t)
}

// recordWall leaves a wall to watch over, as an earlier agent would.
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
	lastLook  = "bottle_agent_wall_check_last_timestamp_seconds"
	connected = "bottle_agent_api_server_connected"
	// agentPatience is for what must happen, on a busy machine.
	agentPatience = time.Minute
)

// userOf is how cfg signs in, for a kubeconfig.
func userOf(cfg *rest.Config) *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{
		Token: cfg.BearerToken, ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData,
		Impersonate: cfg.Impersonate.UserName, ImpersonateGroups: cfg.Impersonate.Groups,
	}
}
