// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"botbottle.dev/bottle-operator/internal/accesscert"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// startAuthority runs what a manager needs for certificates, with the rights that
// config/rbac grants it.
func startAuthority(t *testing.T, cfg *rest.Config) *accesscert.Authority {
	t.Helper()
	cfg = apienv.AsServiceAccount(cfg, "bottle-manager")
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: apienv.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{&certificatesv1.CertificateSigningRequest{}: accesscert.CacheConfig()}},
	})
	must(t, err)
	authority := accesscert.NewAuthority(accesscert.Options{
		Client: apienv.Client(t, cfg), Namespace: apienv.SystemNamespace, Service: "bottle-manager-access", Clock: clock.RealClock{}, Log: logr.Discard(),
	})
	must(t, mgr.Add(authority))
	must(t, (&accesscert.Signer{Client: mgr.GetClient(), Authority: authority, Namespace: apienv.SystemNamespace}).SetupWithManager(mgr))
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(t.Context()) }()
	t.Cleanup(func() { must(t, <-ended) })
	select {
	case <-authority.Ready():
	case err := <-ended:
		t.Fatalf("the manager ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("got no certificates, want some")
	}
	return authority
}

// boundToken returns the configuration of an agent with a token that is bound to a new
// Node, and the Node's name.
func boundToken(t *testing.T, cfg *rest.Config) (*rest.Config, string) {
	t.Helper()
	admin, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	node, err := admin.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "certificate-"}}, metav1.CreateOptions{})
	must(t, err)
	token, err := admin.CoreV1().ServiceAccounts(apienv.SystemNamespace).CreateToken(t.Context(), "bottle-agent", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
	}, metav1.CreateOptions{})
	must(t, err)
	agent := rest.AnonymousClientConfig(cfg)
	agent.BearerToken = token.Status.Token
	return agent, node.Name
}

func keeperOf(t *testing.T, cfg *rest.Config, node string) *accesscert.Keeper {
	t.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	k := accesscert.NewKeeper(accesscert.KeeperOptions{
		Node: node, File: filepath.Join(t.TempDir(), "access.pem"), Client: c.CertificatesV1().CertificateSigningRequests(), Clock: clock.RealClock{}, Log: logr.Discard(),
	})
	ended := make(chan error, 1)
	go func() { ended <- k.Start(t.Context()) }()
	t.Cleanup(func() { must(t, <-ended) })
	return k
}

// An agent gets a certificate for the node that its token is bound to, by the real API
// server, and the manager can connect to it.
func TestAgentCertificate(t *testing.T) {
	cfg := apienv.Start(t)
	admin := apienv.Client(t, cfg)
	objects, err := apienv.Manifests("config/apiservice")
	must(t, err)
	service := objects[0]
	must(t, admin.Create(t.Context(), service))
	defer func() { must(t, admin.Delete(context.Background(), service)) }()
	authority := startAuthority(t, cfg)
	agent, node := boundToken(t, cfg)
	k := keeperOf(t, agent, node)
	g := gomega.NewWithT(t)
	g.Eventually(k.Ready, time.Minute, 50*time.Millisecond).Should(gomega.BeTrue())
	g.Eventually(func() string {
		must(t, admin.Get(t.Context(), client.ObjectKeyFromObject(service), service))
		bundle, _, _ := unstructured.NestedString(service.Object, "spec", "caBundle")
		return bundle
	}, time.Minute, 50*time.Millisecond).ShouldNot(gomega.BeEmpty())

	listener, err := tls.Listen("tcp", "127.0.0.1:0", k.ServerConfig())
	must(t, err)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("x"))
			conn.Close()
		}
	}()
	read := func(config *tls.Config) error {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", listener.Addr().String(), config)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	manager, err := authority.ClientConfig(node)
	must(t, err)
	must(t, read(manager))
	manager, err = authority.ClientConfig("node-b")
	must(t, err)
	if err := read(manager); err == nil {
		t.Error("the manager, for another node: got a connection, want none")
	}

	// The same token does not give a certificate for another node.
	other := &requests{t: t, cfg: agent}
	csr := other.create("bottle-agent-"+node+"-other", accesscert.SignerName, requestFor(t, "node-b"))
	g.Eventually(func() []certificatesv1.CertificateSigningRequestCondition {
		must(t, admin.Get(t.Context(), client.ObjectKeyFromObject(csr), csr))
		return csr.Status.Conditions
	}, time.Minute, 50*time.Millisecond).ShouldNot(gomega.BeEmpty())
	if c := csr.Status.Conditions[0]; c.Type != certificatesv1.CertificateDenied || len(csr.Status.Certificate) > 0 {
		t.Errorf("another node's name: got %s (%s), want it denied", c.Type, c.Message)
	}
}

// What an agent may ask for is restricted before the manager sees it.
func TestAgentCertificateRequests(t *testing.T) {
	cfg := apienv.Start(t)
	agent, node := boundToken(t, cfg)
	own := "bottle-agent-" + node + "-"
	request := requestFor(t, node)
	for name, tc := range map[string]struct {
		cfg          *rest.Config
		name, signer string
		request      []byte
		want         string // "" means allowed
	}{
		"its own":              {agent, own + "a", accesscert.SignerName, request, ""},
		"a kubelet's":          {agent, own + "b", certificatesv1.KubeAPIServerClientKubeletSignerName, request, "only of the signer"},
		"a user's":             {agent, own + "c", certificatesv1.KubeAPIServerClientSignerName, request, "only of the signer"},
		"another node's name":  {agent, "bottle-agent-node-b-d", accesscert.SignerName, request, "must begin with"},
		"a longer node's name": {agent, "bottle-agent-" + node + "x-d", accesscert.SignerName, request, "must begin with"},
		"too long":             {agent, own + "e", accesscert.SignerName, append(request, make([]byte, 4096)...), "4096"},
		"with a loose token":   {apienv.AsServiceAccount(cfg, "bottle-agent"), own + "f", accesscert.SignerName, request, "not bound to a Node"},
	} {
		t.Run(name, func(t *testing.T) {
			// The policy takes effect a moment after its creation.
			gomega.NewWithT(t).Eventually(func() string {
				err := (&requests{t: t, cfg: tc.cfg}).try(tc.name, tc.signer, tc.request)
				switch {
				case err == nil && tc.want == "" || err != nil && tc.want != "" && strings.Contains(err.Error(), tc.want):
					return ""
				case err == nil:
					return "allowed"
				}
				return err.Error()
			}, 20*time.Second, 50*time.Millisecond).Should(gomega.BeEmpty())
		})
	}
	c := apienv.Client(t, agent)
	for verb, err := range map[string]error{
		"list":    c.List(t.Context(), &certificatesv1.CertificateSigningRequestList{}),
		"approve": approve(t, c, node),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: got %v, want it forbidden", verb, err)
		}
	}
}

func approve(t *testing.T, c client.Client, node string) error {
	t.Helper()
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "bottle-agent-" + node + "-a", ResourceVersion: "1"}}
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Self"}}
	return c.SubResource("approval").Update(t.Context(), csr)
}

// requestFor returns a request for the serving certificate of a node.
func requestFor(t *testing.T, node string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{accesscert.AgentDNSName(node)}}, key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// requests creates requests as a user.
type requests struct {
	t   *testing.T
	cfg *rest.Config
}

func (r *requests) object(name, signer string, request []byte) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}
}

func (r *requests) create(name, signer string, request []byte) *certificatesv1.CertificateSigningRequest {
	r.t.Helper()
	csr := r.object(name, signer, request)
	must(r.t, apienv.Client(r.t, r.cfg).Create(r.t.Context(), csr))
	return csr
}

func (r *requests) try(name, signer string, request []byte) error {
	r.t.Helper()
	return apienv.Client(r.t, r.cfg).Create(r.t.Context(), r.object(name, signer, request), client.DryRunAll)
}
