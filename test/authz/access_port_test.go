// SPDX-License-Identifier: Apache-2.0

package authz_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// agentAddress returns where the agent of the node serves the manager.
func agentAddress(t *testing.T) string {
	t.Helper()
	c := connect(t)
	lease := &coordinationv1.Lease{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: c.SystemNamespace(t), Name: "bottle-agent-" + node}, lease); err != nil {
		t.Fatal(err)
	}
	address := lease.Annotations[v1alpha1.AnnotationAgentAddress]
	if address == "" {
		t.Fatalf("Lease of %s: got annotations %v, want the agent's address", node, lease.Annotations)
	}
	return address
}

// ask sends a request over a connection, and returns the answer's status and the
// beginning of its body.
func ask(conn net.Conn, config *tls.Config, path string, headers http.Header) (code int, body string, err error) {
	defer conn.Close()
	if config != nil {
		conn = tls.Client(conn, config)
	}
	request, err := http.NewRequest(http.MethodGet, "https://x"+path, nil)
	if err != nil {
		return 0, "", err
	}
	for key, values := range headers {
		request.Header[key] = values
	}
	if err := request.Write(conn); err != nil {
		return 0, "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	start, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	return response.StatusCode, string(start), nil
}

// The agent's port answers the manager and nobody else, from wherever the connection
// comes: without a certificate, or with one of another CA, another name or another
// purpose, there is no answer at all.
func testAgentPort(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) {
	address := agentAddress(t)
	ca, roots := operatorAuthority(t)
	config := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots, ServerName: node + ".agents.botbottle.dev", Certificates: certificates, NextProtos: []string{"http/1.1"}}
	}
	bottle := func(uid string) string {
		return "/v1/bottles/" + b.Namespace + "/" + b.Name + "/" + uid + "/log?tailLines=1"
	}
	keep := func(*x509.Certificate) {}

	// With the manager's certificate, the agent answers. This makes the other cases
	// mean something.
	manager := config(ca.leaf(t, keep))
	if code, body, err := ask(fromControl(t, address), manager, bottle(string(b.UID)), nil); err != nil || code != http.StatusOK {
		t.Errorf("the manager's certificate: got %d %s (%v), want the log", code, body, err)
	}
	for _, uid := range []string{"00000000-0000-0000-0000-000000000000", "x", "..", "%2e%2e%2f" + string(b.UID)} {
		if code, body, err := ask(fromControl(t, address), manager, bottle(uid), nil); err != nil || code/100 == 2 {
			t.Errorf("UID %s: got %d %s (%v), want it refused", uid, code, body, err)
		}
	}

	user, err := tls.LoadX509KeyPair(userFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	frontProxy, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, "pki/front-proxy-client.crt"), filepath.Join(c.Dir, "pki/front-proxy-client.key"))
	if err != nil {
		t.Fatal(err)
	}
	token := http.Header{"Authorization": {"Bearer " + accountToken(t, c.SystemNamespace(t), "bottle-manager", "")}}
	cases := map[string]*tls.Config{
		"no TLS":                       nil,
		"no certificate":               config(),
		"of another CA":                config(ownAuthority(t).leaf(t, keep)),
		"of a user":                    config(user),
		"of the front proxy":           config(frontProxy),
		"of another name":              config(ca.leaf(t, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "bottle-agent"} })),
		"with the name of an agent":    config(ca.leaf(t, func(c *x509.Certificate) { c.DNSNames = []string{node + ".agents.botbottle.dev"} })),
		"for servers":                  config(ca.leaf(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })),
		"expired":                      config(ca.leaf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })),
		"of the CA itself":             config(ca.Certificate),
		"of an agent, as an agent has": config(ca.leaf(t, agentLeaf)),
	}
	_, port, _ := net.SplitHostPort(address)
	places := map[string]func() net.Conn{
		"the managers' namespace": func() net.Conn { return fromControl(t, address) },
		"the node":                func() net.Conn { return fromNode(t, address) },
		"the node's loopback":     func() net.Conn { return fromNode(t, "127.0.0.1:"+port) },
	}
	for place, dial := range places {
		for name, config := range cases {
			t.Run(place+"/"+name, func(t *testing.T) {
				code, body, err := ask(dial(), config, bottle(string(b.UID)), token)
				// An HTTP server tells a client without TLS so.
				if config == nil && code == http.StatusBadRequest {
					return
				}
				if err == nil {
					t.Errorf("got %d %s, want no answer", code, body)
				}
			})
		}
	}
}

// agentLeaf makes a certificate like those that the manager signs for agents.
func agentLeaf(c *x509.Certificate) {
	c.Subject = pkix.Name{CommonName: node + ".agents.botbottle.dev"}
	c.DNSNames = []string{node + ".agents.botbottle.dev"}
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
}

// userFiles returns the certificate and key of a user who may use every Bottle.
func userFiles(t *testing.T) (certificate, key string) {
	t.Helper()
	p := signIn(t, "user")
	file := filepath.Join(connect(t).Dir, "pki/users", p.name)
	return file + ".crt", file + ".key"
}

// The managers believe the headers that name a user only if they come with the API
// server's own certificate.
func testManagerPorts(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) {
	reader := signIn(t, "reader")
	grant(t, b.Namespace, reader, "ClusterRole", "view")
	awaitRight(t, c, reader, b.Namespace, actions["log"])
	load := func(name string) tls.Certificate {
		t.Helper()
		file := filepath.Join(c.Dir, "pki", name)
		cert, err := tls.LoadX509KeyPair(file+".crt", file+".key")
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca, roots := operatorAuthority(t)
	config := func(certificates ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots, ServerName: "bottle-manager-access." + c.SystemNamespace(t) + ".svc", Certificates: certificates, NextProtos: []string{"http/1.1"}}
	}
	path := subresourcePath(b, "log") + "?tailLines=1"
	as := func(user string, groups ...string) http.Header {
		return http.Header{"X-Remote-User": {user}, "X-Remote-Group": groups}
	}
	makeUser(t, "front-proxy-client")
	for _, manager := range []string{"10.77.0.2:10250", "10.77.0.3:10250"} {
		code, body, err := ask(fromControl(t, manager), config(load("front-proxy-client")), path, as(reader.name))
		if err != nil || code != http.StatusOK {
			t.Errorf("%s: the API server for a reader: got %d %s (%v), want the log", manager, code, body, err)
		}
		refused := []int{http.StatusUnauthorized, http.StatusForbidden}
		for name, tc := range map[string]struct {
			config *tls.Config
			as     http.Header
			want   []int
		}{
			"the API server for nobody": {config(load("front-proxy-client")), as("nobody"), []int{http.StatusForbidden}},
			"nobody, as a reader":       {config(), as(reader.name), refused},
			"nobody, as a master":       {config(), as("x", "system:masters"), refused},
			"a user, as a master":       {config(load("users/" + signIn(t, "user").name)), as("x", "system:masters"), refused},
			"a user called front proxy": {config(load("users/front-proxy-client")), as("x", "system:masters"), refused},
			"an agent's certificate":    {config(ca.leaf(t, agentLeaf)), as("x", "system:masters"), refused},
			"the manager's certificate": {config(ca.leaf(t, func(*x509.Certificate) {})), as("x", "system:masters"), refused},
			"another CA's front proxy":  {config(ownAuthority(t).leaf(t, func(c *x509.Certificate) { c.Subject.CommonName = "front-proxy-client" })), as("x", "system:masters"), refused},
		} {
			t.Run(manager+"/"+name, func(t *testing.T) {
				code, body, err := ask(fromControl(t, manager), tc.config, path, tc.as)
				if err != nil || !slices.Contains(tc.want, code) {
					t.Errorf("got %d %s (%v), want one of %v", code, body, err, tc.want)
				}
			})
		}
	}
}
