// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/await"
)

const (
	testNode      = "node-1"
	testNamespace = "bottle-system"
	waitLong      = time.Minute
	clientAuth    = x509.ExtKeyUsageClientAuth
)

// pki is an authority that the test made.
type pki struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &pki{t: t, key: key, cert: cert, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate and key, as PEM. name is the common name of a client,
// and the DNS name of a server.
func (p *pki) issue(name string, usage x509.ExtKeyUsage) (cert, key []byte) {
	p.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(p.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, private.Public(), p.key)
	must(p.t, err)
	raw, err := x509.MarshalECPrivateKey(private)
	must(p.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func (p *pki) pair(name string, usage x509.ExtKeyUsage) tls.Certificate {
	p.t.Helper()
	pair, err := tls.X509KeyPair(p.issue(name, usage))
	must(p.t, err)
	return pair
}

func (p *pki) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return pool
}

// world is a server, a fake API server beside it, and the agent of one node.
type world struct {
	t      testing.TB
	client client.Client
	// cache is what the server knows without asking: nothing at first.
	cache  client.Client
	agent  *agent
	front  *pki
	agents *pki
	// allow decides what SubjectAccessReviews answer.
	mu    sync.Mutex
	allow func(*authorizationv1.SubjectAccessReviewSpec) bool
	lines []string
	url   string
	reg   *prometheus.Registry
	stop  context.CancelFunc
}

func start(t testing.TB, bottles ...*v1alpha1.Bottle) *world {
	t.Helper()
	w := &world{t: t, front: newPKI(t), agents: newPKI(t), reg: prometheus.NewRegistry(),
		allow: func(*authorizationv1.SubjectAccessReviewSpec) bool { return true }}
	w.agent = startAgent(t, w.agents)

	scheme := runtime.NewScheme()
	must(t, clientgoscheme.AddToScheme(scheme))
	must(t, v1alpha1.AddToScheme(scheme))
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: leasePrefix + testNode,
		Annotations: map[string]string{v1alpha1.AnnotationAgentAddress: w.agent.address}}}
	objects := []client.Object{lease, nodeAt(testNode, "127.0.0.1")}
	for _, b := range bottles {
		objects = append(objects, b)
	}
	w.client = ctrlfake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Bottle{}).WithObjects(objects...).Build()
	w.cache = ctrlfake.NewClientBuilder().WithScheme(scheme).Build()

	kube := fake.NewClientset(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: frontProxy},
		Data: map[string]string{
			"requestheader-client-ca-file":       string(w.front.pem),
			"requestheader-allowed-names":        `["front-proxy"]`,
			"requestheader-username-headers":     `["X-Remote-User"]`,
			"requestheader-uid-headers":          `["X-Remote-Uid"]`,
			"requestheader-group-headers":        `["X-Remote-Group"]`,
			"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
		},
	})
	reviews := httptest.NewServer(http.HandlerFunc(w.review))
	t.Cleanup(reviews.Close)
	authorization, err := authorizationclient.NewForConfig(&rest.Config{Host: reviews.URL})
	must(t, err)

	servingCert, servingKey := w.front.issue("localhost", x509.ExtKeyUsageServerAuth)
	serving, err := dynamiccertificates.NewStaticCertKeyContent("serving", servingCert, servingKey)
	must(t, err)
	w.serve(Options{
		Namespace: testNamespace, Client: w.client, Cache: w.cache, Kubernetes: kubeClient{kube, authorization}, Serving: serving,
		AgentTLS:   w.agentTLS,
		Registerer: w.reg, Clock: clock.RealClock{}, Log: w.logger(),
	})
	return w
}

// agentTLS is what the manager uses to connect to an agent.
func (w *world) agentTLS(node string) (*tls.Config, error) {
	return &tls.Config{ServerName: node + ".agents.botbottle.dev", RootCAs: w.agents.pool(), MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{w.agents.pair("bottle-manager", x509.ExtKeyUsageClientAuth)}}, nil
}

// nodeAt returns a Node with a hostname and an address.
func nodeAt(name, address string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address}}}}
}

// kubeClient is a fake one, except for reviews, which the library makes in its own way.
type kubeClient struct {
	*fake.Clientset
	reviews authorizationclient.AuthorizationV1Interface
}

func (k kubeClient) AuthorizationV1() authorizationclient.AuthorizationV1Interface { return k.reviews }

// review answers a SubjectAccessReview.
func (w *world) review(rw http.ResponseWriter, r *http.Request) {
	review := &authorizationv1.SubjectAccessReview{}
	if err := json.NewDecoder(r.Body).Decode(review); err != nil {
		w.t.Errorf("decode a review: %v", err)
	}
	w.mu.Lock()
	review.Status.Allowed = w.allow(&review.Spec)
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(rw).Encode(review); err != nil {
		w.t.Errorf("encode a review: %v", err)
	}
}

// serve runs the server until the test ends.
func (w *world) serve(o Options) {
	w.t.Helper()
	server, err := New(o)
	must(w.t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	w.url = "https://" + listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.serve(ctx, listener) }()
	w.stop = cancel
	w.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			must(w.t, err)
		case <-time.After(waitLong):
			w.t.Error("the server does not stop")
		}
	})
	await.True(w.t, "the server answers", func() bool {
		code, _ := w.get(w.as("alice"), "/apis/subresources.botbottle.dev/v1alpha1")
		return code == http.StatusOK
	})
}

func (w *world) logger() logr.Logger {
	return funcr.New(func(_, line string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lines = append(w.lines, line)
	}, funcr.Options{})
}

// audit returns the audit lines that contain all of the given texts.
func (w *world) audit(texts ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, line := range w.lines {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			out = append(out, line)
		}
	}
	return out
}

// permit makes SubjectAccessReviews allow exactly what f does.
func (w *world) permit(f func(*authorizationv1.SubjectAccessReviewSpec) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allow = f
}

// as returns a configuration that reaches the server as kube-apiserver does on
// behalf of a user.
func (w *world) as(user string, groups ...string) *rest.Config {
	w.t.Helper()
	cert, key := w.front.issue("front-proxy", x509.ExtKeyUsageClientAuth)
	return &rest.Config{Host: w.url, Timeout: waitLong,
		TLSClientConfig: rest.TLSClientConfig{CAData: w.front.pem, CertData: cert, KeyData: key, NextProtos: []string{"http/1.1"}},
		WrapTransport: func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				r = r.Clone(r.Context())
				r.Header.Set("X-Remote-User", user)
				for _, g := range append(groups, "system:authenticated") {
					r.Header.Add("X-Remote-Group", g)
				}
				return next.RoundTrip(r)
			})
		}}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (w *world) get(cfg *rest.Config, path string) (code int, body string) {
	return w.do(cfg, http.MethodGet, path, "")
}

// do makes a request and returns the answer; code is 0 if there is none.
func (w *world) do(cfg *rest.Config, method, path, send string) (code int, body string) {
	w.t.Helper()
	c, err := rest.HTTPClientFor(cfg)
	must(w.t, err)
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(send))
	must(w.t, err)
	if send != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	response, err := c.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	out := &bytes.Buffer{}
	if _, err := out.ReadFrom(response.Body); err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, out.String()
}

// path is the URL path of a subresource of a Bottle.
func path(name, verb string) string {
	return "/apis/subresources.botbottle.dev/v1alpha1/namespaces/default/bottles/" + name + "/" + verb
}

// agent is a fake agent with real streams.
type agent struct {
	address string
	mu      sync.Mutex
	// seen has the requests, and protocols the streaming protocols asked for.
	seen []*http.Request
	// run is what exec and attach do.
	run executor
	// answer, if it is set, answers instead.
	answer http.HandlerFunc
	// connected is how often a client has connected, and unused how many of these
	// connections have neither streams nor an end.
	connected, unused atomic.Int32
}

func startAgent(t testing.TB, authority *pki) *agent {
	t.Helper()
	a := &agent{}
	server := httptest.NewUnstartedServer(a)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			a.connected.Add(1)
			a.unused.Add(1)
		case http.StateHijacked, http.StateClosed:
			a.unused.Add(-1)
		}
	}
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{authority.pair(testNode+".agents.botbottle.dev", x509.ExtKeyUsageServerAuth)},
		ClientCAs:    authority.pool(), ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	a.address = server.Listener.Addr().String()
	return a
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen = append(a.seen, r.Clone(context.Background()))
	answer := a.answer
	a.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	a.stream(w, r)
}

// stream serves exec or attach as agents do.
func (a *agent) stream(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	run := a.run
	a.mu.Unlock()
	q := r.URL.Query()
	o := &remotecommand.Options{Stdin: q.Has("stdin"), Stdout: q.Has("stdout"), Stderr: q.Has("stderr"), TTY: q.Has("tty")}
	remotecommand.ServeExec(w, r, run, "", "", "", q["command"], o, 0, waitLong, remotecommand.SupportedStreamingProtocols)
}

// set changes what the agent does.
func (a *agent) set(f func(*agent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
}

// requests returns what the agent was asked.
func (a *agent) requests() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.seen)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
