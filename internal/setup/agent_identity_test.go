// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	other := errors.New("no route")
	if err := o.explain(&rest.Config{}, other); !errors.Is(err, other) {
		t.Errorf("got %v, want the error itself", err)
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
