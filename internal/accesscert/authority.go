// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// checkInterval is how often the Secret and the APIService are read: another
	// replica may have changed the one, and a user the other.
	checkInterval = 30 * time.Second
	// checkTimeout bounds one check.
	checkTimeout = 20 * time.Second
)

// ErrNotReady means that the CA has not been read or made yet.
var ErrNotReady = errors.New("the certificates of the access API are not ready yet")

// Options of an Authority.
type Options struct {
	// Client reads and writes without a cache. Its scheme needs no more than
	// Kubernetes' own types.
	Client client.Client
	// Namespace is the operator's; Service is the name of the Service of the access
	// API in it.
	Namespace, Service string
	Clock              clock.WithTicker
	Log                logr.Logger
}

// Authority is the manager's side. Every replica runs one, leader or not; they
// share the CA through the Secret.
type Authority struct {
	options Options
	ready   chan struct{}

	mu        sync.Mutex
	current   *issued // nil until the first check has succeeded
	listeners []dynamiccertificates.Listener
}

// issued is what a replica uses at the moment.
type issued struct {
	authorities    *authorities
	serving        *tls.Certificate
	client         *tls.Certificate
	servingCertPEM []byte
	servingKeyPEM  []byte
	renew          time.Time // of serving and client
}

// NewAuthority returns an Authority, which has no certificates before Start.
func NewAuthority(options Options) *Authority {
	return &Authority{options: options, ready: make(chan struct{})}
}

// Start keeps the CA, the certificates and the APIService's caBundle up to date
// until ctx ends.
func (a *Authority) Start(ctx context.Context) error {
	ticker := a.options.Clock.NewTicker(checkInterval)
	defer ticker.Stop()
	for failing := false; ; {
		attempt, cancel := context.WithTimeout(ctx, checkTimeout)
		err := a.check(attempt)
		cancel()
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			a.options.Log.Error(err, "The certificates of the access API cannot be kept up to date")
			failing = true
		case err == nil && failing:
			a.options.Log.Info("The certificates of the access API are up to date again")
			failing = false
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

// NeedLeaderElection makes every replica start it.
func (a *Authority) NeedLeaderElection() bool { return false }

// Ready is closed once there are certificates.
func (a *Authority) Ready() <-chan struct{} { return a.ready }

// check reads and rotates the CA, renews this replica's certificates, and writes
// the caBundle.
func (a *Authority) check(ctx context.Context) error {
	authorities, err := a.ensureCA(ctx)
	if err != nil {
		return err
	}
	return errors.Join(a.adopt(authorities), a.ensureBundle(ctx, authorities.bundlePEM()))
}

// adopt makes new certificates if the CA has changed or the old ones are due.
func (a *Authority) adopt(authorities *authorities) error {
	now := a.options.Clock.Now()
	a.mu.Lock()
	old := a.current
	a.mu.Unlock()
	if old != nil && now.Before(old.renew) && old.authorities.current.cert.Equal(authorities.current.cert) {
		fresh := *old
		fresh.authorities = authorities
		a.mu.Lock()
		a.current = &fresh
		a.mu.Unlock()
		return nil
	}
	fresh, err := a.issue(authorities, now)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.current = fresh
	listeners := a.listeners
	a.mu.Unlock()
	if old == nil {
		close(a.ready)
	}
	for _, l := range listeners {
		l.Enqueue()
	}
	return nil
}

func (a *Authority) issue(authorities *authorities, now time.Time) (*issued, error) {
	out := &issued{authorities: authorities, renew: now.Add(leafLife * 2 / 3)}
	var err error
	ca := authorities.current
	name := a.options.Service + "." + a.options.Namespace + ".svc"
	if out.serving, err = ca.issue(leaf{dnsNames: []string{name}, usage: x509.ExtKeyUsageServerAuth, life: leafLife}, now); err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	if out.client, err = ca.issue(leaf{commonName: ManagerName, usage: x509.ExtKeyUsageClientAuth, life: leafLife}, now); err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	out.servingCertPEM = encodeCerts(out.serving.Certificate...)
	if out.servingKeyPEM, err = encodeKey(out.serving.PrivateKey); err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	return out, nil
}

func (a *Authority) issued() *issued {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.current
}

// ClientConfig returns what the manager uses to connect to the agent of a node. It
// must be asked for each connection, because the certificates change. The error is
// ErrNotReady.
func (a *Authority) ClientConfig(node string) (*tls.Config, error) {
	now := a.issued()
	if now == nil {
		return nil, ErrNotReady
	}
	config := baseConfig(a.options.Clock)
	config.ServerName = AgentDNSName(node)
	config.RootCAs = now.authorities.pool()
	config.Certificates = []tls.Certificate{*now.client}
	return config, nil
}

// Serving returns the certificate of the aggregated API server. It has no content
// before Ready.
func (a *Authority) Serving() dynamiccertificates.CertKeyContentProvider { return serving{a} }

type serving struct{ *Authority }

func (serving) Name() string { return "access API" }

// CurrentCertKeyContent returns the certificate and its key.
func (s serving) CurrentCertKeyContent() (cert, key []byte) {
	now := s.issued()
	if now == nil {
		return nil, nil
	}
	return now.servingCertPEM, now.servingKeyPEM
}

// AddListener adds one that is told of each new certificate.
func (s serving) AddListener(l dynamiccertificates.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
}
