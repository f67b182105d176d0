// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/rest"

	"botbottle.dev/bottle-operator/internal/preflight"
)

// preflightOptions returns the options of a preflight on a node with little of what
// Bottles need.
func preflightOptions(t *testing.T, args ...string) (*PreflightOptions, *bytes.Buffer) {
	t.Helper()
	out := &bytes.Buffer{}
	o := &PreflightOptions{Out: out}
	fs := pflag.NewFlagSet("preflight", pflag.ContinueOnError)
	o.Bind(fs)
	dir := t.TempDir()
	common := []string{"--state-dir=" + dir, "--smolvm-dir=" + filepath.Join(dir, "smolvm"), "--docker-host=unix://" + filepath.Join(dir, "docker.sock"),
		"--guest-program=" + filepath.Join(dir, "bottle-guest"), "--cgroup-parent=bottle-test-none.slice",
		"--access-bind-address=0", "--health-probe-bind-address=127.0.0.1:0", "--metrics-bind-address=127.0.0.1:0"}
	if err := fs.Parse(append(common, args...)); err != nil {
		t.Fatal(err)
	}
	return o, out
}

func TestPreflight(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	o, out := preflightOptions(t, "-o", "json", "--kvm-device="+filepath.Join(t.TempDir(), "kvm"))
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	err := o.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "docker: docker does not answer") {
		t.Errorf("got %v, want an error about docker", err)
	}
	var r preflight.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	want := map[string]preflight.Outcome{"smolvm": preflight.Failure, "docker": preflight.Failure, "kvm": preflight.Failure, "guest-program": preflight.Failure,
		"ports": preflight.OK, "kvm-boot": preflight.Warning, "api-server": preflight.Warning}
	got := map[string]preflight.Outcome{}
	for _, c := range r.Checks {
		if _, twice := got[c.Name]; twice {
			t.Errorf("%s: reported twice", c.Name)
		}
		got[c.Name] = c.Outcome
	}
	for name, outcome := range want {
		if got[name] != outcome {
			t.Errorf("%s: got %q, want %s", name, got[name], outcome)
		}
	}
	for _, name := range []string{"cgroups", "state-dir", "nftables", "disk", "network"} {
		if got[name] == "" {
			t.Errorf("%s: it is not reported", name)
		}
	}
}

// Later containers of the Pod install smolvm and the programs.
func TestPreflightInAContainer(t *testing.T) {
	o, _ := preflightOptions(t, "--host-root=/", "--kvm-device=")
	runtime, usesDocker, err := o.containerRuntime()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = runtime.Close() }()
	facts, err := o.preflightFacts(runtime, usesDocker)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range o.relevant(facts.NodeFacts(t.Context())) {
		if strings.HasPrefix(f.Name, "smolvm") || f.Name == "guest-program" {
			t.Errorf("before the first installation: got %+v, want nothing about it", f)
		}
	}
	if err := os.Mkdir(o.SmolvmDir, 0o755); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range o.relevant(facts.NodeFacts(t.Context())) {
		found = found || f.Name == "smolvm" && !f.OK
	}
	if !found {
		t.Error("a broken smolvm is not reported")
	}
	if r := o.bootResult(t.Context(), nil); r.Outcome != preflight.OK || !strings.Contains(r.Message, "the agent boots a microVM") {
		t.Errorf("got %+v, want that the agent will try", r)
	}
	o.Boot = true
	failed := []preflight.Result{{Name: "docker", Outcome: preflight.Failure}, {Name: "kvm", Outcome: preflight.Failure}}
	if r := o.bootResult(t.Context(), failed); r.Outcome != preflight.Failure || !strings.Contains(r.Message, "kvm has failed") {
		t.Errorf("--boot without KVM: got %+v, want a failure that names KVM", r)
	}
}

// Only an agent can delete the Bottles of a node, whether their machines run or not.
func TestPreflightWhereBottlesAre(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	o, _ := preflightOptions(t, "--unless-in-use", "--kvm-device=")
	bottles := filepath.Join(o.StateDir, "bottles")
	if err := os.Mkdir(bottles, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := o.Run(t.Context()); err == nil {
		t.Error("without Bottles: got nil, want the failures")
	}
	if err := os.Mkdir(filepath.Join(bottles, "3f2c1b4a-0000-4000-8000-000000000001"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := o.Run(t.Context()); err != nil {
		t.Errorf("with a Bottle: got %v, want the agent to start", err)
	}
}

func TestPreflightFlags(t *testing.T) {
	o, _ := preflightOptions(t, "--host-root=host", "--output=yaml", "--max-bottles=-1")
	err := o.Validate()
	for _, flag := range []string{"--host-root", "--output", "--max-bottles"} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("got %v, want an error about %s", err, flag)
		}
	}
	if err != nil && strings.Contains(err.Error(), "--node-name") {
		t.Errorf("got %v, want no node name needed", err)
	}
}

// apiFake answers as an API server whose clock is right would.
func apiFake(t *testing.T, h http.HandlerFunc) *preflightCluster {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := newPreflightCluster(&rest.Config{Host: server.URL}, &AgentOptions{NodeName: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPreflightAsksTheAPIServer(t *testing.T) {
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var unauthorized atomic.Bool
	c := apiFake(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", date.Format(http.TimeFormat))
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/version":
			_, _ = w.Write([]byte(`{"major":"1","minor":"37"}`))
		case "/apis/authentication.k8s.io/v1/selfsubjectreviews":
			if unauthorized.Load() {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			review := authenticationv1.SelfSubjectReview{}
			review.Status.UserInfo.Username = "system:serviceaccount:bottle-system:bottle-agent"
			review.Status.UserInfo.Extra = map[string]authenticationv1.ExtraValue{nodeNameKey: {"node-2"}}
			_ = json.NewEncoder(w).Encode(review)
		default:
			http.NotFound(w, r)
		}
	})
	if got, err := c.Time(t.Context()); err != nil || !got.Equal(date) {
		t.Errorf("time: got %s, %v, want %s", got, err, date)
	}
	if err := c.Identity(t.Context()); err == nil || !strings.Contains(err.Error(), "not bound to Node node-1; make one with: kubectl") {
		t.Errorf("identity: got %v, want that the token is another node's, and what to do", err)
	}
	unauthorized.Store(true)
	if err := c.Identity(t.Context()); err == nil || !strings.Contains(err.Error(), "credentials: make a token") {
		t.Errorf("identity: got %v, want that the token is not accepted, and what to do", err)
	}
	if _, err := c.Policy(t.Context(), "bottle-agent-nodes"); err == nil {
		t.Error("policy: got nil, want an error")
	}
}

func TestPreflightWithoutAnAPIServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := newPreflightCluster(&rest.Config{Host: "http://" + l.Addr().String()}, &AgentOptions{NodeName: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Time(t.Context()); err == nil || err.Error() != "it refuses connections" {
		t.Errorf("got %v, want that it refuses connections", err)
	}
}
