// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/accesscert"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// TestOnlyTheManager tries to get an answer with every certificate but the manager's.
func TestOnlyTheManager(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	agent := w.ca.agent(t)
	w.start(t, w.ca.keeper(t, agent).ServerConfig())
	otherCA := newCA(t)
	clients := map[string][]tls.Certificate{
		"no certificate":            nil,
		"another CA":                {otherCA.manager(t)},
		"the agent's own":           {agent},
		"expired":                   {w.ca.issue(t, accesscert.ManagerName, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })},
		"not valid yet":             {w.ca.issue(t, accesscert.ManagerName, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })},
		"another name":              {w.ca.issue(t, "alice", x509.ExtKeyUsageClientAuth, nil)},
		"no name":                   {w.ca.issue(t, "", x509.ExtKeyUsageClientAuth, nil)},
		"a server's with that name": {w.ca.issue(t, accesscert.ManagerName, x509.ExtKeyUsageServerAuth, nil)},
	}
	for name, certs := range clients {
		t.Run(name, func(t *testing.T) {
			if got, err := w.ask(t, &tls.Config{
				InsecureSkipVerify:   true,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return first(certs), nil },
			}); err == nil {
				t.Errorf("got %q, want no answer", got)
			}
		})
	}
	old := w.tls(w.client)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if got, err := w.ask(t, old); err == nil {
		t.Errorf("TLS 1.2: got %q, want no answer", got)
	}
	if got, err := w.ask(t, w.tls(w.client)); err != nil || got != "HTTP/1.1 404" {
		t.Errorf("the manager: got %q, %v, want an answer", got, err)
	}
}

// first returns the first certificate, or an empty one, which stands for none.
func first(certs []tls.Certificate) *tls.Certificate {
	if len(certs) == 0 {
		return &tls.Certificate{}
	}
	return &certs[0]
}

// ask sends a request and returns the beginning of the answer.
func (w *world) ask(t *testing.T, config *tls.Config) (string, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", w.address, config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return "", err
	}
	answer := make([]byte, len("HTTP/1.1 404"))
	_, err = io.ReadFull(conn, answer)
	return string(answer), err
}

// TestPlainText sends HTTP without TLS.
func TestPlainText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	response, err := http.Get("http://" + w.address + w.url("log", nil).Path)
	if err != nil {
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d, want 400", response.StatusCode)
	}
}

func TestOnlyThisNodesBottles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, path := range map[string]string{
		"another UID":       "/v1/bottles/team/demo/1a2b3c4d-0000-4000-8000-000000000002/log",
		"another name":      "/v1/bottles/team/other/" + demo.UID + "/log",
		"another namespace": "/v1/bottles/other/demo/" + demo.UID + "/log",
		"a path":            "/v1/bottles/team/..%2Fdemo/" + demo.UID + "/log",
		"another verb":      "/v1/bottles/team/demo/" + demo.UID + "/portforward",
	} {
		u := w.url("log", nil)
		u.Path, u.RawPath = path, path
		if code, body := w.get(t, http.MethodGet, u); code != http.StatusNotFound {
			t.Errorf("%s: got %d %s, want 404", name, code, body)
		}
	}
	if code, body := w.get(t, http.MethodDelete, w.url("log", nil)); code != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: got %d %s, want 405", code, body)
	}
}

// TestOccupiedPort starts the server while another one has its port.
func TestOccupiedPort(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	networks := hosttest.NewNetworks(&hosttest.Faults{})
	s := New(Options{Address: l.Addr().String(), TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return nil, errors.New("none")
	}}, Bottles: &fakeBottles{}, Machines: hosttest.NewMachines(nil), Bundles: hosttest.NewBundles(networks), Sessions: NewSessions(clock.RealClock{}), Log: logr.Discard()})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Start(ctx) }()
	select {
	case err := <-ended:
		t.Fatalf("got %v, want another attempt", err)
	case <-time.After(100 * time.Millisecond):
	}
	l.Close()
	if _, err := s.Addr(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
