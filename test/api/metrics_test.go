// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

// TestMetricsNeedARight checks that the manager, by default, and an agent whose
// metrics are not on a loopback address serve /metrics only with TLS and only to
// those who may read it, with the rights that config/ gives the two. It reads them as
// the monitors of config/components/monitoring say, with the account that is made for that.
func TestMetricsNeedARight(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	ns := apienv.Namespace(t, c)
	server, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stranger := token(t, c, ns, "stranger")
	component, err := apienv.Manifests("config/components/agent-metrics", "config/components/monitoring")
	if err != nil {
		t.Fatal(err)
	}
	urls := map[string]string{}
	for _, o := range component {
		switch o.GetKind() {
		case "ServiceMonitor":
			urls["bottle-manager"] = monitoredURL(t, o, "endpoints")
		case "PodMonitor":
			urls["bottle-agent"] = monitoredURL(t, o, "podMetricsEndpoints")
		default:
			if err := c.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader := tokenOf(t, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: "bottle-metrics-reader"}})
	for name, run := range map[string]func(a *agent){
		"bottle-manager": func(a *agent) {
			a.run(t, "manager", "--namespace", ns, "--bundle-image", "bottle-operator:dev", "--health-probe-bind-address", healthAddress)
		},
		"bottle-agent": func(a *agent) { a.start(t, "--metrics-bind-address", ":8443") },
	} {
		t.Run(name, func(t *testing.T) {
			as := apienv.AsServiceAccount(cfg, name)
			as.Host = apiAddress
			a := newAgent(t, as)
			a.forward(t, server.Host)
			a.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
			run(a)
			scrape := func(token string) int {
				code, body := a.fetchAs(urls[name], token)
				if strings.Contains(body, "go_goroutines") != (code == http.StatusOK) {
					t.Errorf("got %d with the body %q", code, body)
				}
				return code
			}
			a.eventually(t, "an answer", func() bool { return scrape("") != 0 })
			a.eventually(t, "a scrape by the reader", func() bool { return scrape(reader) == http.StatusOK })
			for what, tt := range map[string]struct {
				token string
				want  int
			}{
				"without a token":         {"", http.StatusUnauthorized},
				"with an invalid token":   {"x", http.StatusUnauthorized},
				"with a token, no right":  {stranger, http.StatusForbidden},
				"with the right to do so": {reader, http.StatusOK},
			} {
				if got := scrape(tt.token); got != tt.want {
					t.Errorf("%s: got %d, want %d", what, got, tt.want)
				}
			}
			if code, _ := a.fetch("http://127.0.0.1:8443/metrics"); code == http.StatusOK {
				t.Error("without TLS: got the metrics, want none")
			}
			if code, body := a.get("/healthz"); code != http.StatusOK {
				t.Errorf("healthz: got %d %q, want 200 without a token", code, body)
			}
		})
	}
}

// token creates a ServiceAccount and returns a token of it.
func token(t *testing.T, c client.Client, ns, name string) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	if err := c.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	return tokenOf(t, c, account)
}

// tokenOf returns a token of a ServiceAccount.
func tokenOf(t *testing.T, c client.Client, account *corev1.ServiceAccount) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if err := c.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

// monitoredURL returns what a monitor makes Prometheus read, here at the port 8443. It
// checks that Prometheus takes the account's token and accepts a certificate of any signer.
func monitoredURL(t *testing.T, monitor *unstructured.Unstructured, field string) string {
	t.Helper()
	endpoints, _, err := unstructured.NestedSlice(monitor.Object, "spec", field)
	if err != nil || len(endpoints) != 1 {
		t.Fatalf("%s: got %d endpoints (%v), want 1", monitor.GetName(), len(endpoints), err)
	}
	endpoint, _ := endpoints[0].(map[string]any)
	secret, _, _ := unstructured.NestedString(endpoint, "authorization", "credentials", "name")
	scheme, _, _ := unstructured.NestedString(endpoint, "authorization", "type")
	anySigner, _, _ := unstructured.NestedBool(endpoint, "tlsConfig", "insecureSkipVerify")
	if secret != "bottle-metrics-reader" || scheme != "Bearer" || !anySigner {
		t.Errorf("%s: got %v, want a bearer token from bottle-metrics-reader, and any certificate", monitor.GetName(), endpoint)
	}
	return fmt.Sprintf("%s://127.0.0.1:8443%s", endpoint["scheme"], endpoint["path"])
}
