// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	goflag "flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/accesscert"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/test/await"
)

const node = "node-1"

// TestMain lets many tests run at a time, because most of them wait for a connection or a
// timer. A flag of the command line still wins.
func TestMain(m *testing.M) {
	if err := goflag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var demo = host.Owner{UID: "1a2b3c4d-0000-4000-8000-000000000001", Namespace: "team", Name: "demo", Slug: "demo", Cluster: "cluster", Node: node}

// testCA signs certificates.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) testCA {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	return testCA{sign(t, template, template, key, key), key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue returns a certificate. change may be nil.
func (ca testCA) issue(t *testing.T, cn string, usage x509.ExtKeyUsage, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	if change != nil {
		change(template)
	}
	key := newKey(t)
	cert := sign(t, template, ca.cert, key, ca.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (ca testCA) manager(t *testing.T) tls.Certificate {
	return ca.issue(t, accesscert.ManagerName, x509.ExtKeyUsageClientAuth, nil)
}

func (ca testCA) agent(t *testing.T) tls.Certificate {
	return ca.issue(t, "agent", x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) {
		c.DNSNames = []string{accesscert.AgentDNSName(node)}
	})
}

// keeper returns the agent's side of accesscert, with a certificate that an earlier agent
// has saved.
func (ca testCA) keeper(t *testing.T, agent tls.Certificate) *accesscert.Keeper {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(agent.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	for _, b := range []*pem.Block{{Type: "PRIVATE KEY", Bytes: key}, {Type: "CERTIFICATE", Bytes: agent.Leaf.Raw}, {Type: "CERTIFICATE", Bytes: ca.cert.Raw}} {
		if err := pem.Encode(&saved, b); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "access.pem")
	if err := os.WriteFile(file, saved.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	k := accesscert.NewKeeper(accesscert.KeeperOptions{Node: node, File: file, Clock: clock.RealClock{}, Log: logr.Discard()})
	if !k.Ready() {
		t.Fatal("keeper: got no certificate, want the saved one")
	}
	return k
}

// fakeBottles are Bottles by name.
type fakeBottles struct {
	beforeFind func() // nil for none
	mu         sync.Mutex
	all        map[string]Bottle
}

func (f *fakeBottles) Find(_ context.Context, namespace, name, uid string) (Bottle, error) {
	if f.beforeFind != nil {
		f.beforeFind()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.all[namespace+"/"+name]
	if !ok || b.Owner.UID != uid {
		return Bottle{}, host.ErrNotFound
	}
	return b, nil
}

func (f *fakeBottles) IDs(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, b := range f.all {
		out = append(out, b.Owner.ID())
	}
	return out, nil
}

func (f *fakeBottles) change(change func(b *Bottle)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.all["team/demo"]
	change(&b)
	f.all["team/demo"] = b
}

func (f *fakeBottles) delete() {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, "team/demo")
}

// world is a server with a running machine.
type world struct {
	ca       testCA
	server   *Server
	bottles  *fakeBottles
	machines *hosttest.Machines
	networks *hosttest.Networks
	bundles  *hosttest.Bundles
	client   tls.Certificate
	address  string
	logged   *logged
}

// logged collects log lines.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// audit waits for the audit line of a session.
func (l *logged) audit(t *testing.T, session string) string {
	t.Helper()
	var found string
	await.True(t, "the audit line of "+session, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, line := range l.lines {
			if strings.Contains(line, `"session"="`+session+`"`) {
				found = line
			}
		}
		return found != ""
	})
	return found
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func newWorld(t *testing.T) *world {
	t.Helper()
	networks := hosttest.NewNetworks(&hosttest.Faults{})
	w := &world{
		ca: newCA(t), machines: hosttest.NewMachines(nil), networks: networks, bundles: hosttest.NewBundles(networks),
		bottles: &fakeBottles{all: map[string]Bottle{"team/demo": {Owner: demo}}},
		logged:  &logged{},
	}
	w.machines.Add(host.Machine{Name: demo.ID(), UID: demo.UID, State: host.MachineStopped})
	if err := w.machines.StartMachine(t.Context(), demo.ID(), ""); err != nil {
		t.Fatal(err)
	}
	w.client = w.ca.manager(t)
	w.start(t, w.ca.keeper(t, w.ca.agent(t)).ServerConfig())
	return w
}

func (w *world) start(t *testing.T, config *tls.Config) {
	t.Helper()
	w.server = New(Options{
		Address: "127.0.0.1:0", TLS: config, Bottles: w.bottles, Machines: w.machines, Bundles: w.bundles,
		Sessions: NewSessions(clock.RealClock{}), Log: funcr.New(func(prefix, args string) { w.logged.add(prefix + " " + args) }, funcr.Options{}),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: got %v, want nil", err)
		}
	})
	addr, err := w.server.Addr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.address = addr.String()
}

func (w *world) tls(client ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(w.ca.cert)
	return &tls.Config{RootCAs: pool, ServerName: accesscert.AgentDNSName(node), Certificates: client, MinVersion: tls.VersionTLS13}
}

func (w *world) url(verb string, query url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: w.address, Path: "/v1/bottles/team/demo/" + demo.UID + "/" + verb, RawQuery: query.Encode()}
}

// config is the configuration of a client-go client.
func (w *world) config(t *testing.T) *rest.Config {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(w.client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return &rest.Config{Host: "https://" + w.address, TLSClientConfig: rest.TLSClientConfig{
		ServerName: accesscert.AgentDNSName(node), CAData: block("CERTIFICATE", w.ca.cert.Raw),
		CertData: block("CERTIFICATE", w.client.Leaf.Raw), KeyData: block("PRIVATE KEY", key),
	}}
}

// get sends a request and returns the answer's status and body.
func (w *world) get(t *testing.T, method string, u *url.URL) (int, string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: w.tls(w.client)}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), method, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// exec runs a command with client-go's SPDY executor. The streams that options has are
// opened.
func (w *world) exec(ctx context.Context, t *testing.T, options remotecommand.StreamOptions, query url.Values, argv ...string) error {
	t.Helper()
	q := url.Values{"command": argv}
	for name, open := range map[string]bool{"stdin": options.Stdin != nil, "stdout": options.Stdout != nil, "stderr": options.Stderr != nil, "tty": options.Tty} {
		q.Set(name, fmt.Sprint(open))
	}
	for name, values := range query {
		q[name] = values
	}
	verb := "exec"
	if argv == nil {
		verb = "attach"
	}
	config := w.config(t)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			r.Header.Set(HeaderSession, "session-1")
			return next.RoundTrip(r)
		})
	})
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, w.url(verb, q))
	if err != nil {
		t.Fatal(err)
	}
	return executor.StreamWithContext(ctx, options)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// proxy puts a proxy before the server, which stands for a client's kernel.
type proxy struct {
	listener *net.TCPListener
	mu       sync.Mutex
	conns    []net.Conn
	passed   atomic.Int64 // from the client
	seen     int64        // by stuck
	since    time.Time
}

func (w *world) proxy(t *testing.T) *proxy {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	p, server := &proxy{listener: l}, w.address
	w.address = l.Addr().String()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			conn, err := net.Dial("tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, conn)
			p.mu.Unlock()
			go func() { _, _ = io.Copy(client, conn) }()
			go func() { _, _ = io.Copy(conn, countReader{client, &p.passed}) }()
		}
	}()
	t.Cleanup(p.kill)
	return p
}

// kill closes all connections, as the kernel does for a process that is killed.
func (p *proxy) kill() {
	p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
}

// stuck reports whether the client has sent something, but nothing for a while.
func (p *proxy) stuck() bool {
	if now := p.passed.Load(); now != p.seen {
		p.seen, p.since = now, time.Now()
	}
	return p.seen > 1<<20 && time.Since(p.since) > time.Second
}
