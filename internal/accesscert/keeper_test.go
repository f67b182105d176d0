// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// start runs k until stop is called or the test ends, and waits until k is idle.
func start(t *testing.T, k *Keeper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = k.Start(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	pass(2 * time.Second)
	return stop
}

// pass lets time pass in a bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// The agent gets a certificate, serves the manager, and nobody else.
func TestHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.keeper(t, testNode)
		if serverErr, _ := connect(k.ServerConfig(), clientOf(t, w.authority)); !errors.Is(serverErr, ErrNotReady) {
			t.Errorf("without a certificate: got %v, want ErrNotReady", serverErr)
		}
		start(t, k)
		if serverErr, clientErr := connect(k.ServerConfig(), clientOf(t, w.authority)); serverErr != nil || clientErr != nil {
			t.Fatalf("the manager: got %v, %v, want a connection", serverErr, clientErr)
		}
		foreign := newReplica(newClient(noFuncs))
		check(t, foreign)
		agents := *k.current.Load().cert
		for name, change := range map[string]func(*tls.Config){
			"no certificate":       func(c *tls.Config) { c.Certificates = nil },
			"an agent's":           func(c *tls.Config) { c.Certificates = []tls.Certificate{agents} },
			"the manager's server": func(c *tls.Config) { c.Certificates = []tls.Certificate{*w.authority.issued().serving} },
			"of another CA":        func(c *tls.Config) { c.Certificates = []tls.Certificate{signedBy(t, foreign, managerLeaf)} },
			"of another name": func(c *tls.Config) {
				c.Certificates = []tls.Certificate{signedBy(t, w.authority, leaf{commonName: "alice", usage: x509.ExtKeyUsageClientAuth, life: leafLife})}
			},
			"the name, but a server": func(c *tls.Config) {
				c.Certificates = []tls.Certificate{signedBy(t, w.authority, leaf{commonName: ManagerName, usage: x509.ExtKeyUsageServerAuth, life: leafLife})}
			},
			"expired": func(c *tls.Config) {
				short := managerLeaf
				short.life = time.Second
				c.Certificates = []tls.Certificate{signedBy(t, w.authority, short)}
				pass(2 * time.Second)
			},
			"TLS 1.2": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		} {
			config := clientOf(t, w.authority)
			change(config)
			if serverErr, _ := connect(k.ServerConfig(), config); serverErr == nil {
				t.Errorf("%s: got a connection, want none", name)
			}
		}
		other, err := w.authority.ClientConfig("node-b")
		if err != nil {
			t.Fatal(err)
		}
		if _, clientErr := connect(k.ServerConfig(), other); clientErr == nil {
			t.Error("the manager, for another node: got a connection, want none")
		}
	})
}

// An agent whose token is bound to another node gets no certificate for this one.
func TestAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.keeper(t, "node-b")
		start(t, k)
		list := &certificatesv1.CertificateSigningRequestList{}
		if err := w.List(t.Context(), list); err != nil || len(list.Items) == 0 {
			t.Fatalf("got %d requests, %v, want one", len(list.Items), err)
		}
		csr := list.Items[0]
		if k.Ready() || !hasCondition(&csr, certificatesv1.CertificateDenied) || len(csr.Status.Certificate) > 0 {
			t.Errorf("got %+v, want it denied", csr.Status.Conditions)
		}
	})
}

// The certificate is renewed at half of its life. It serves until it expires while the
// manager is away, also after a restart of the agent.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.keeper(t, testNode)
		start(t, k)
		first := k.current.Load().cert.Leaf
		if info, err := os.Stat(k.options.File); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("saved: got %v, %v, want the mode 0600", info, err)
		}
		pass(9 * time.Hour)
		if w.requests.Load() != 1 {
			t.Errorf("after 9 hours: got %d requests, want 1", w.requests.Load())
		}
		pass(4 * time.Hour)
		second := k.current.Load().cert.Leaf
		if w.requests.Load() != 2 || second.Equal(first) {
			t.Errorf("after 13 hours: got %d requests, want a second one and a new certificate", w.requests.Load())
		}
		registry := prometheus.NewPedanticRegistry()
		if err := k.Register(registry); err != nil {
			t.Fatal(err)
		}
		families, err := registry.Gather()
		if err != nil || len(families) != 1 || families[0].Metric[0].Gauge.GetValue() != float64(second.NotAfter.Unix()) {
			t.Errorf("metric: got %v, %v, want that the new certificate expires at %s", families, err, second.NotAfter)
		}

		w.away.Store(true)
		pass(20 * time.Hour)
		check(t, w.authority)
		restarted := NewKeeper(w.options(k.options.File, testNode))
		for name, keeper := range map[string]*Keeper{"the agent": k, "the restarted agent": restarted} {
			if serverErr, clientErr := connect(keeper.ServerConfig(), clientOf(t, w.authority)); serverErr != nil || clientErr != nil {
				t.Errorf("%s, while the manager is away: got %v, %v, want a connection", name, serverErr, clientErr)
			}
		}
		if w.requests.Load() > 5 {
			t.Errorf("after 20 hours without a manager: got %d requests, want few", w.requests.Load())
		}
		pass(5 * time.Hour)
		if serverErr, _ := connect(k.ServerConfig(), clientOf(t, w.authority)); k.Ready() || !errors.Is(serverErr, ErrNotReady) {
			t.Errorf("expired: got %v, want ErrNotReady", serverErr)
		}
		w.away.Store(false)
		pass(time.Minute)
		if !k.Ready() {
			t.Error("the manager is back: got no certificate, want one")
		}
	})
}

// An agent that the API server does not answer asks again, with growing pauses.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.down.Store(true)
		k := w.keeper(t, testNode)
		start(t, k)
		pass(time.Hour)
		w.down.Store(false)
		pass(maxRetry + slowPollInterval)
		if !k.Ready() || w.requests.Load() != 1 {
			t.Errorf("got ready %t after %d requests, want it after one", k.Ready(), w.requests.Load())
		}
	})
}

// A saved file that somebody changed, or that is for another node, is not used.
func TestSavedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		k := w.keeper(t, testNode)
		start(t, k)
		good, err := os.ReadFile(k.options.File)
		if err != nil {
			t.Fatal(err)
		}
		other := w.keeper(t, testNode)
		start(t, other)
		key, err := encodeKey(other.current.Load().cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		chain := encodeCerts(k.current.Load().cert.Certificate...)
		for name, data := range map[string][]byte{
			"empty": nil, "cut": good[:len(good)/2], "garbage": []byte("x"), "without a CA": append(append([]byte{}, good[:len(key)]...), chain...),
			"another key": append(append([]byte{}, key...), good[len(key):]...),
		} {
			if err := os.WriteFile(k.options.File, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if NewKeeper(w.options(k.options.File, testNode)).Ready() {
				t.Errorf("%s: got it used, want it ignored", name)
			}
		}
		if err := os.WriteFile(k.options.File, good, 0o600); err != nil {
			t.Fatal(err)
		}
		torn := filepath.Join(filepath.Dir(k.options.File), ".tmp-123")
		if err := os.WriteFile(torn, good, 0o600); err != nil {
			t.Fatal(err)
		}
		options := w.options(k.options.File, testNode)
		if !NewKeeper(options).Ready() {
			t.Error("as saved: got it ignored, want it used")
		}
		if _, err := os.Stat(torn); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file of an agent that crashed: got %v, want it removed", err)
		}
		options.Node = "node-b"
		if NewKeeper(options).Ready() {
			t.Error("for another node: got it used, want it ignored")
		}
	})
}

// What an approver approves against the rules is not signed.
func TestApprovedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.away.Store(true)
		k := w.keeper(t, "node-b")
		start(t, k)
		list := &certificatesv1.CertificateSigningRequestList{}
		if err := w.List(t.Context(), list); err != nil || len(list.Items) != 1 {
			t.Fatalf("got %d requests, %v, want one", len(list.Items), err)
		}
		csr := &list.Items[0]
		setCondition(csr, certificatesv1.CertificateApproved, "Test", "by an administrator")
		if err := w.Status().Update(t.Context(), csr); err != nil {
			t.Fatal(err)
		}
		w.away.Store(false)
		pass(time.Minute)
		if err := w.WithWatch.Get(t.Context(), client.ObjectKeyFromObject(csr), csr); err != nil {
			t.Fatal(err)
		}
		if k.Ready() || len(csr.Status.Certificate) > 0 || !hasCondition(csr, certificatesv1.CertificateFailed) {
			t.Errorf("got %+v, want it failed", csr.Status.Conditions)
		}
	})
}
