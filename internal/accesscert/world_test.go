// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

const (
	testNode      = "node-a"
	testNamespace = "bottle-system"
)

// world is an API server, and the signer of its leader. The tests run in synctest
// bubbles, where the real clock is a fake one.
type world struct {
	client.WithWatch
	authority *Authority
	signer    *Signer
	away      atomic.Bool // the leader signs nothing
	down      atomic.Bool // agents' requests fail
	requests  atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{WithWatch: newClient(interceptor.Funcs{})}
	w.authority = newReplica(w)
	w.signer = &Signer{Client: w, Authority: w.authority, Namespace: testNamespace}
	if err := w.authority.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func newClient(funcs interceptor.Funcs) client.WithWatch {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, certificatesv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"}, apiService())
	return fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(funcs).
		WithStatusSubresource(&certificatesv1.CertificateSigningRequest{}).Build()
}

func newReplica(c client.Client) *Authority {
	return NewAuthority(Options{Client: c, Namespace: testNamespace, Service: "bottle-manager-access", Clock: clock.RealClock{}, Log: logr.Discard()})
}

// check lets a replica do one check.
func check(t *testing.T, a *Authority) {
	t.Helper()
	if err := a.check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// requestsOf is what an agent sees of the requests. The API server adds who it is.
type requestsOf struct {
	certificatesclient.CertificateSigningRequestInterface
	*world
	node string
}

func (r requestsOf) Create(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, _ metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	if r.down.Load() {
		return nil, errors.New("down")
	}
	r.requests.Add(1)
	csr = csr.DeepCopy()
	csr.Spec.Username = "system:serviceaccount:" + testNamespace + ":bottle-agent"
	csr.Spec.Extra = map[string]certificatesv1.ExtraValue{nodeNameKey: {r.node}}
	return csr, r.WithWatch.Create(ctx, csr)
}

// Get lets the signer work first.
func (r requestsOf) Get(ctx context.Context, name string, _ metav1.GetOptions) (*certificatesv1.CertificateSigningRequest, error) {
	if r.down.Load() {
		return nil, errors.New("down")
	}
	key := client.ObjectKey{Name: name}
	for range 2 {
		if r.away.Load() {
			break
		}
		if _, err := r.signer.Reconcile(ctx, ctrl.Request{NamespacedName: key}); err != nil {
			return nil, fmt.Errorf("signer: %w", err)
		}
	}
	csr := &certificatesv1.CertificateSigningRequest{}
	return csr, r.WithWatch.Get(ctx, key, csr)
}

// keeper returns a Keeper for an agent whose token is bound to the node.
func (w *world) keeper(t *testing.T, node string) *Keeper {
	t.Helper()
	return NewKeeper(w.options(filepath.Join(t.TempDir(), "access", "agent.pem"), node))
}

func (w *world) options(file, node string) KeeperOptions {
	return KeeperOptions{Node: testNode, File: file, Client: requestsOf{world: w, node: node}, Clock: clock.RealClock{}, Log: logr.Discard()}
}

// connect returns the errors of both ends of a handshake.
func connect(server, dialer *tls.Config) (serverErr, clientErr error) {
	a, b := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		conn := tls.Server(a, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("x"))
		}
		a.Close()
		ended <- err
	}()
	conn := tls.Client(b, dialer)
	clientErr = conn.Handshake()
	if clientErr == nil { // with TLS 1.3 the server refuses after the client's handshake
		_, clientErr = conn.Read(make([]byte, 1))
	}
	b.Close()
	return <-ended, clientErr
}

// clientOf returns the manager's configuration for the node.
func clientOf(t *testing.T, a *Authority) *tls.Config {
	t.Helper()
	config, err := a.ClientConfig(testNode)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// signedBy returns a certificate with what l says, signed by the replica's CA.
func signedBy(t *testing.T, a *Authority, l leaf) tls.Certificate {
	t.Helper()
	cert, err := a.issued().authorities.current.issue(l, clock.RealClock{}.Now())
	if err != nil {
		t.Fatal(err)
	}
	return *cert
}

var managerLeaf = leaf{commonName: ManagerName, usage: x509.ExtKeyUsageClientAuth, life: leafLife}
