// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
)

const (
	// firstRetry and maxRetry are the pauses after failures.
	firstRetry, maxRetry = 5 * time.Second, 5 * time.Minute
	// pollInterval is how often a request is read while the manager has not signed it.
	pollInterval = time.Second
	// slowPollInterval replaces it when the manager seems to be away.
	slowPollInterval = 15 * time.Second
	// slowAfter is how long the manager may take before it seems to be away.
	slowAfter = 30 * time.Second
	// requestLife is how long the agent waits for the same request before it makes
	// another. kube-controller-manager deletes one that nobody has signed after a day.
	requestLife = 6 * time.Hour
	// callTimeout bounds one call of the API server.
	callTimeout = 15 * time.Second
	// maxSaved bounds the saved file.
	maxSaved = 64 << 10
)

// KeeperOptions configure a Keeper.
type KeeperOptions struct {
	Node string
	// File keeps the key, the certificate and the CAs across restarts. Its folder, which
	// the Keeper makes, has nothing else in it.
	File   string
	Client certificatesclient.CertificateSigningRequestInterface
	Clock  clock.Clock
	Log    logr.Logger
}

// Keeper is the agent's side: it gets the agent's serving certificate, and renews
// it at half of its life.
type Keeper struct {
	options KeeperOptions
	current atomic.Pointer[held]
}

// held is a certificate with what comes with it.
type held struct {
	cert *tls.Certificate
	cas  []*x509.Certificate
	pool *x509.CertPool // of cas
}

// NewKeeper returns a Keeper, which has the saved certificate if that is valid.
func NewKeeper(options KeeperOptions) *Keeper {
	k := &Keeper{options: options}
	k.clean()
	saved, err := k.load()
	switch {
	case err == nil:
		k.current.Store(saved)
	case !errors.Is(err, os.ErrNotExist):
		options.Log.Info("The saved certificate cannot be used; the agent asks for a new one", "file", options.File, "cause", err.Error())
	}
	return k
}

// ServerConfig returns the configuration of the agent's server. It accepts only the
// manager, and nobody while there is no valid certificate.
func (k *Keeper) ServerConfig() *tls.Config {
	outer := baseConfig(k.options.Clock)
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := k.current.Load()
		if now == nil || !k.options.Clock.Now().Before(now.cert.Leaf.NotAfter) {
			return nil, ErrNotReady
		}
		config := baseConfig(k.options.Clock)
		config.Certificates = []tls.Certificate{*now.cert}
		config.ClientCAs, config.ClientAuth = now.pool, tls.RequireAndVerifyClientCert
		config.VerifyConnection = verifyManager
		return config, nil
	}
	return outer
}

// verifyManager accepts the manager. crypto/tls has verified the chain and the usage.
func verifyManager(state tls.ConnectionState) error {
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return errors.New("the client has no verified certificate")
	}
	if cert := state.PeerCertificates[0]; cert.Subject.CommonName != ManagerName || len(cert.DNSNames) > 0 {
		return errors.New("the client is not the manager")
	}
	return nil
}

// Ready reports whether the agent has a valid certificate.
func (k *Keeper) Ready() bool {
	now := k.current.Load()
	return now != nil && k.options.Clock.Now().Before(now.cert.Leaf.NotAfter)
}

// Start gets and renews the certificate until ctx ends.
func (k *Keeper) Start(ctx context.Context) error {
	retry := firstRetry
	for ctx.Err() == nil {
		if !k.sleep(ctx, k.untilRenewal()) {
			break
		}
		err := k.renew(ctx)
		if err == nil {
			k.options.Log.Info("The agent has a new certificate", "until", k.current.Load().cert.Leaf.NotAfter)
			retry = firstRetry
			continue
		}
		if ctx.Err() == nil {
			k.options.Log.Error(err, "The agent's certificate cannot be renewed", "retry", retry)
		}
		if !k.sleep(ctx, jittered(retry)) {
			break
		}
		retry = min(2*retry, maxRetry)
	}
	return nil
}

// jittered returns d or up to a fifth less, so that agents spread their requests.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(mathrand.Int64N(int64(d)/5+1))
}

// untilRenewal returns how long the certificate may still be used before half of its
// life is over, less some jitter.
func (k *Keeper) untilRenewal() time.Duration {
	now := k.current.Load()
	if now == nil {
		return 0
	}
	life := now.cert.Leaf.NotAfter.Sub(now.cert.Leaf.NotBefore)
	due := now.cert.Leaf.NotBefore.Add(jittered(life / 2))
	return max(0, due.Sub(k.options.Clock.Now()))
}

// sleep reports whether the time has passed rather than ctx ended.
func (k *Keeper) sleep(ctx context.Context, d time.Duration) bool {
	timer := k.options.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C():
		return true
	}
}

// renew asks for a certificate with a new key, waits for it, and saves it.
func (k *Keeper) renew(ctx context.Context) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	name, err := k.ask(ctx, key)
	if err != nil {
		return err
	}
	chain, err := k.wait(ctx, name)
	if err != nil {
		return fmt.Errorf("certificate signing request %s: %w", name, err)
	}
	fresh, err := k.check(key, chain)
	if err != nil {
		return fmt.Errorf("certificate signing request %s: %w", name, err)
	}
	k.current.Store(fresh)
	return k.save(fresh)
}

func (k *Keeper) ask(ctx context.Context, key crypto.Signer) (name string, err error) {
	request, err := newRequest(k.options.Node, key)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	csr, err := k.options.Client.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: requestPrefix(k.options.Node) + strings.ToLower(rand.Text()[:10])},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: SignerName, Usages: agentUsages,
			ExpirationSeconds: ptr.To(int32(leafLife / time.Second)),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("create a certificate signing request: %w", err)
	}
	return csr.Name, nil
}

// wait returns the signed certificate of a request. It goes on through failures of
// the API server, so that those leave no pile of requests behind.
func (k *Keeper) wait(ctx context.Context, name string) ([]byte, error) {
	start := k.options.Clock.Now()
	for {
		waited := k.options.Clock.Since(start)
		if waited > requestLife {
			return nil, errors.New("the manager has not signed it")
		}
		pause := pollInterval
		if waited > slowAfter {
			pause = slowPollInterval
		}
		if !k.sleep(ctx, pause) {
			return nil, ctx.Err()
		}
		csr, err := k.read(ctx, name)
		switch {
		case apierrors.IsNotFound(err):
			return nil, errors.New("it was deleted")
		case err != nil:
			continue
		case len(csr.Status.Certificate) > 0:
			return csr.Status.Certificate, nil
		case hasCondition(csr, certificatesv1.CertificateDenied):
			return nil, errors.New("it was denied; its conditions say why")
		case hasCondition(csr, certificatesv1.CertificateFailed):
			return nil, errors.New("it could not be signed; its conditions say why")
		}
	}
}

func (k *Keeper) read(ctx context.Context, name string) (*certificatesv1.CertificateSigningRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return k.options.Client.Get(ctx, name, metav1.GetOptions{})
}

// check returns the certificate in chain, a leaf followed by its CAs, if it is one
// for this node and this key.
func (k *Keeper) check(key crypto.Signer, chain []byte) (*held, error) {
	certs, err := decodeCerts(chain)
	if err != nil {
		return nil, err
	}
	if len(certs) < 2 {
		return nil, errors.New("the certificate comes without a CA")
	}
	out := &held{cas: certs[1:], pool: x509.NewCertPool()}
	for _, ca := range out.cas {
		out.pool.AddCert(ca)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(certs[0].PublicKey) {
		return nil, errors.New("the certificate has another key")
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{
		DNSName: AgentDNSName(k.options.Node), Roots: out.pool, CurrentTime: k.options.Clock.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return nil, fmt.Errorf("the certificate is not valid: %w", err)
	}
	out.cert = &tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: key, Leaf: certs[0]}
	return out, nil
}
