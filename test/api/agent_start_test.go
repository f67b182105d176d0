// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"botbottle.dev/bottle-operator/internal/agenttoken"
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
	as := apienv.AsAgent(cfg, "n")
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

// TestAgentToken checks an agent whose token is not bound to its Node: it guards
// machines and says what is wrong. With the right token it starts to work, and
// makes that token last, without a restart.
func TestAgentToken(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	server, _, err := rest.DefaultServerUrlFor(cfg)
	must(t, err)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	must(t, c.Create(t.Context(), node))
	t.Cleanup(func() { _ = c.Delete(context.Background(), node) })
	file := filepath.Join(t.TempDir(), "token")
	write := func(bound *authenticationv1.BoundObjectReference) {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: "bottle-agent"}}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
		must(t, c.SubResource("token").Create(t.Context(), account, request))
		must(t, os.WriteFile(file, []byte(request.Status.Token), 0o600))
	}
	write(nil)
	as := &rest.Config{Host: apiAddress, BearerTokenFile: file, TLSClientConfig: rest.TLSClientConfig{CAData: cfg.CAData}}
	a := newAgent(t, as)
	a.recordWall(t)
	a.forward(t, server.Host)
	a.start(t)
	const waiting = "waiting for the API server: the agent's token is not bound to Node n"
	a.eventually(t, "readyz to be 503 with "+waiting, func() bool {
		code, body := a.get("/readyz")
		return code == 503 && strings.TrimSpace(body) == waiting
	})
	a.eventually(t, "the guard's first check", func() bool { return a.metric(lastCheck) > 0 })
	write(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: "n", UID: node.UID})
	a.eventually(t, "the agent to be ready", func() bool { code, _ := a.get("/readyz"); return code == 200 })
	a.eventually(t, "a token for a week", func() bool {
		token, err := agenttoken.Read(file)
		must(t, err)
		claims, err := agenttoken.Parse(token)
		return err == nil && claims.Expires.Sub(claims.Issued) == 168*time.Hour && claims.NodeUID == node.UID
	})
	log := a.stop(t)
	if want := "kubectl -n " + apienv.SystemNamespace + " create token bottle-agent --bound-object-kind Node --bound-object-name n"; !strings.Contains(log, want) {
		t.Errorf("log: got no %q in\n%s", want, log)
	}
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
		Token: cfg.BearerToken, TokenFile: cfg.BearerTokenFile, ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData,
		Impersonate: cfg.Impersonate.UserName, ImpersonateGroups: cfg.Impersonate.Groups, ImpersonateUserExtra: cfg.Impersonate.Extra,
	}
}
