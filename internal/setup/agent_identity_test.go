// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

func TestCheckUser(t *testing.T) {
	const account = "system:serviceaccount:ops:bottle-agent"
	const command = "kubectl -n ops create token bottle-agent --bound-object-kind Node --bound-object-name node-a"
	o := &AgentOptions{NodeName: "node-a"}
	for name, tt := range map[string]struct {
		username string
		nodes    []string
		want     string // in the error; "" means that the user is accepted
	}{
		"bound":            {account, []string{"node-a"}, ""},
		"to another Node":  {account, []string{"node-b"}, command},
		"unbound":          {account, nil, command},
		"two Nodes":        {account, []string{"node-a", "node-b"}, command},
		"another account":  {"system:serviceaccount:ops:acme-bottle-agent", []string{"node-a"}, "the ServiceAccount bottle-agent"},
		"no account":       {"hunter22", nil, "the ServiceAccount bottle-agent"},
		"the whole prefix": {"system:serviceaccount:", nil, "the ServiceAccount bottle-agent"},
	} {
		t.Run(name, func(t *testing.T) {
			user := authenticationv1.UserInfo{Username: tt.username}
			if tt.nodes != nil {
				user.Extra = map[string]authenticationv1.ExtraValue{nodeNameKey: tt.nodes}
			}
			namespace, err := o.checkUser(user)
			if tt.want == "" {
				if err != nil || namespace != "ops" {
					t.Errorf("got %q, %v, want ops", namespace, err)
				}
				return
			}
			var problem *identityError
			if !errors.As(err, &problem) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter22") {
				t.Errorf("got %v, want an identityError with %q", err, tt.want)
			}
			if got := problemOf(err); got != problem.problem {
				t.Errorf("problemOf: got %q, want %q", got, problem.problem)
			}
		})
	}
}

// unsigned returns a token that is valid for an hour from a time.
func unsigned(t *testing.T, issued time.Time) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"iat": issued.Unix(), "exp": issued.Add(time.Hour).Unix(), "kubernetes.io": map[string]any{
		"namespace": "ops", "serviceaccount": map[string]any{"name": "bottle-agent"}, "node": map[string]any{"name": "node-a", "uid": "u"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(body) + ".c2ln"
}

// podToken is like unsigned, but bound to a Pod.
func podToken(t *testing.T) string {
	t.Helper()
	parts := strings.Split(unsigned(t, time.Now()), ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	body = bytes.Replace(body, []byte(`"namespace"`), []byte(`"pod":{"name":"bottle-agent-x"},"namespace"`), 1)
	return parts[0] + "." + base64.RawURLEncoding.EncodeToString(body) + "." + parts[2]
}

func TestExplainRefusedCredentials(t *testing.T) {
	o := &AgentOptions{NodeName: "node-a"}
	const command = "kubectl -n ops create token bottle-agent --bound-object-kind Node --bound-object-name node-a"
	refused := apierrors.NewUnauthorized("refused")
	file := filepath.Join(t.TempDir(), "token")
	for name, tt := range map[string]struct {
		token, problem string
		command        bool
	}{
		"expired":   {unsigned(t, time.Now().Add(-2*time.Hour)), "the agent's token has expired", true},
		"valid":     {unsigned(t, time.Now()), "it does not accept the agent's credentials", true},
		"not a JWT": {"hunter22", "it does not accept the agent's credentials", false},
	} {
		if err := os.WriteFile(file, []byte(tt.token), 0o600); err != nil {
			t.Fatal(err)
		}
		for where, cfg := range map[string]*rest.Config{"in a file": {BearerTokenFile: file}, "inline": {BearerToken: tt.token}} {
			err := o.explain(cfg, refused)
			if got := problemOf(err); got != tt.problem || strings.Contains(err.Error(), command) != tt.command {
				t.Errorf("%s, %s: got %q with %v, want %q", name, where, got, err, tt.problem)
			}
		}
	}
	pod := podToken(t)
	if err := o.explain(&rest.Config{BearerToken: pod}, refused); !strings.Contains(err.Error(), "kubectl -n ops delete pod bottle-agent-x") || strings.Contains(err.Error(), "create token") {
		t.Errorf("a Pod's token: got %v, want the command that replaces the Pod", err)
	}
	other := errors.New("no route")
	if err := o.explain(&rest.Config{}, other); !errors.Is(err, other) {
		t.Errorf("got %v, want the error itself", err)
	}
}

// A Pod's token is not renewed by the agent, but by the kubelet. The client uses the new
// one without a restart.
func TestServiceAccountDir(t *testing.T) {
	var got string
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("Authorization") }))
	defer server.Close()
	dir := t.TempDir()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	address, err := netip.ParseAddrPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", address.Addr().String())
	t.Setenv("KUBERNETES_SERVICE_PORT", strconv.Itoa(int(address.Port())))
	o := &AgentOptions{AccountDir: dir}
	if _, err := o.restConfig("test"); err == nil || !strings.Contains(err.Error(), "--service-account-dir") {
		t.Errorf("empty: got %v, want an error that names the flag", err)
	}
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", []byte("first"))
	write("ca.crt", authority)
	for _, token := range []string{"first", "second"} {
		write("token", []byte(token))
		cfg, err := o.restConfig("test")
		if err != nil {
			t.Fatal(err)
		}
		if cfg.BearerToken != "" { // it would be used for ever
			t.Errorf("got the token itself in the configuration, want only its file")
		}
		client, err := boundedClient(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Get(cfg.Host); err != nil || got != "Bearer "+token {
			t.Errorf("got %q, %v, want the token %s", got, err, token)
		}
	}
	// Nothing is requested: the registry would get metrics of the renewal.
	registry := prometheus.NewRegistry()
	if err := o.renewToken(t.Context(), &rest.Config{BearerTokenFile: filepath.Join(dir, "token")}, registry); err != nil {
		t.Fatal(err)
	}
	if families, err := registry.Gather(); err != nil || len(families) > 0 {
		t.Errorf("got metrics %v, %v, want no renewal", families, err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := o.restConfig("test"); err == nil || !strings.Contains(err.Error(), "KUBERNETES_SERVICE_HOST") {
		t.Errorf("got %v, want an error that names the variable", err)
	}
}

// The link to the current version may change while the agent runs.
func TestKeepSmolvm(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "current")
	o := &AgentOptions{SmolvmDir: link}
	if o.keepSmolvm(); o.SmolvmDir != link {
		t.Errorf("without smolvm: got %s, want %s", o.SmolvmDir, link)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "versions/1"), 0o755), os.Symlink("versions/1", link)); err != nil {
		t.Fatal(err)
	}
	if o.keepSmolvm(); o.SmolvmDir != filepath.Join(dir, "versions/1") {
		t.Errorf("got %s, want versions/1", o.SmolvmDir)
	}
}

func TestCheckKubernetes(t *testing.T) {
	body := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
	defer server.Close()
	cfg := &rest.Config{Host: server.URL}
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ body, want string }{
		"1.33":       {`{"major":"1","minor":"33"}`, ""},
		"1.40+":      {`{"major":"1","minor":"40+"}`, ""},
		"2.0":        {`{"major":"2","minor":"0"}`, ""},
		"1.32":       {`{"major":"1","minor":"32"}`, "Kubernetes 1.33 or newer is required, and the API server is 1.32: upgrade the cluster"},
		"1.9+":       {`{"major":"1","minor":"9+"}`, "Kubernetes 1.33 or newer is required, and the API server is 1.9: upgrade the cluster"},
		"no numbers": {`{"major":"","minor":""}`, "version of the API server"},
		"no JSON":    {"<html>", "version of the API server"},
	} {
		body = tt.body
		err := checkKubernetes(t.Context(), core.RESTClient())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	// The manager ends because of an old API server; the agent waits and says why.
	body = `{"major":"1","minor":"32"}`
	old := tooOldError{version: "1.32"}
	if err := requireKubernetes(t.Context(), cfg); !errors.Is(err, old) {
		t.Errorf("manager: got %v, want %v", err, old)
	}
	api, err := newAPIServer(cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := (&AgentOptions{NodeName: "node-a"}).connect(ctx, cfg, nil, api); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("agent: got %v, want it to wait", err)
	}
	if got := api.waiting(t.Context()); got != old.Error() {
		t.Errorf("agent: got the problem %q, want %q", got, old.Error())
	}
}

func TestManagerNamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "namespace")
	if _, err := (&ManagerOptions{}).namespace(file); err == nil || !strings.Contains(err.Error(), "--namespace") {
		t.Errorf("outside a Pod: got %v, want an error that names --namespace", err)
	}
	if err := os.WriteFile(file, []byte("elsewhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]ManagerOptions{"elsewhere": {}, "here": {Namespace: "here"}} {
		if got, err := o.namespace(file); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}
