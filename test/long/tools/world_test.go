// SPDX-License-Identifier: Apache-2.0

// Package tools runs the tools that guests use, as their registries ship them, with
// exactly a guest's environment and with the bundle's proxy as the only way out of a
// network namespace. It prints what works with nothing set, also with a credential that
// the bundle adds, and compares it with docs/tools.md.
package tools

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
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/bundleproxy"
	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/test/netns"
	"botbottle.dev/bottle-operator/test/require"
)

// The hosts.
const (
	plainHost  = "plain.example.com"  // has no certificate
	publicHost = "public.example.com" // has one of an authority that the guest's image trusts
	openedHost = "opened.example.com" // is opened, and refuses requests without the credential
)

// credential is what the bundle adds to requests to openedHost.
const credential = "cr3dential-5b8e0f2d9c617a34"

// runTimeout is how long a tool may take. It is long because a JVM is slow on a busy
// machine.
const runTimeout = 3 * time.Minute

var (
	bundleIP  = netip.MustParseAddr("192.168.44.2")
	outsideIP = netip.MustParseAddr("203.0.113.10")
)

// world is a guest, its bundle, and the hosts outside.
type world struct {
	t     *testing.T
	guest string // the network namespace of the guest
	root  string // of the guest
	site  *site

	mu   sync.Mutex
	seen map[string]bool // hosts to which a TLS connection was started
}

func newWorld(t *testing.T) *world {
	tools, err := filepath.Abs(filepath.Join("..", "..", "..", "bin", "guest-tools"))
	if err != nil {
		t.Fatal(err)
	}
	require.Root(t)
	require.File(t, filepath.Join(tools, ".maven"), "hack/guest-tools/build bin/guest-tools") // the last part
	w := &world{t: t, site: newSite(), seen: map[string]bool{}}
	w.mountRoot(tools)
	image, company := newAuthority(t, "the image's CA"), newAuthority(t, "a company's CA")
	w.write("usr/local/share/ca-certificates/image.crt", string(image.pem))
	secrets := w.makeAuthority(image)
	if out, err := w.run(nil, "update-ca-certificates"); err != nil {
		t.Fatalf("update-ca-certificates: %v: %s", err, out)
	}

	plain, secure := w.serve(nil), w.serve(&tls.Config{Certificates: []tls.Certificate{image.issue(t, publicHost), company.issue(t, openedHost)},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen[hello.ServerName] = true
			return nil, nil
		}})
	w.startBundle(bundleproxy.Options{
		RulesPath: w.file("egress.json", rules(t)), SecretsDir: secrets, UpstreamCA: w.file("upstream-ca.pem", company.pem),
		Dial: func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", map[uint16]string{80: plain, 443: secure}[to.Port()])
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		},
	})
	return w
}

// makeAuthority makes the Bottle's authority and credential, as the agent does. It writes
// what the guest has to trust, and returns the folder of the bundle.
func (w *world) makeAuthority(image authority) string {
	w.t.Helper()
	dir := w.t.TempDir()
	made, err := bottleca.New("default", "tools", time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	certificate, err := bottleca.CertificateOnly(made)
	if err != nil {
		w.t.Fatal(err)
	}
	// The image's authority stands for a public one: no test has a certificate of those.
	trusted := append(cabundle.WithPublicRoots(certificate), image.pem...)
	store, err := cabundle.Store(trusted, guestenv.StorePassword)
	if err != nil {
		w.t.Fatal(err)
	}
	trust := strings.TrimPrefix(path.Join(supervise.In, supervise.TrustDir), "/")
	w.write(path.Join(trust, supervise.PEMFile), string(trusted))
	w.write(path.Join(trust, supervise.StoreFile), string(store))
	secrets, err := brokerfile.Encode([]brokerfile.Secret{{Secret: "demo", Key: "token", Value: []byte(credential), ResourceVersion: "1", Credential: true}})
	if err != nil {
		w.t.Fatal(err)
	}
	for name, content := range map[string][]byte{brokerfile.CAFile: made, brokerfile.SecretsFile: secrets} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return dir
}

// rules returns the rules file of the bundle.
func rules(t *testing.T) []byte {
	t.Helper()
	set, err := egress.ParseSet([]string{plainHost + ":80", publicHost})
	if err != nil {
		t.Fatal(err)
	}
	host, err := egress.Parse(openedHost)
	if err != nil {
		t.Fatal(err)
	}
	content, err := egress.EncodeFile(set.WithHTTP(egress.HTTPRule{
		Host: host, Credential: &egress.Credential{Secret: "demo", Key: "token", Header: "Authorization", Prefix: "Bearer "},
	}))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// file writes a file of the bundle and returns its path.
func (w *world) file(name string, content []byte) string {
	w.t.Helper()
	at := filepath.Join(w.t.TempDir(), name)
	if err := os.WriteFile(at, content, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return at
}

// mountRoot mounts a copy of the Debian that the test may change, and the other tools
// below its /opt.
func (w *world) mountRoot(tools string) {
	w.t.Helper()
	dir := w.t.TempDir()
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	w.root = filepath.Join(dir, "root")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", filepath.Join(tools, "debian"), filepath.Join(dir, "upper"), filepath.Join(dir, "work"))
	if err := unix.Mount("overlay", w.root, "overlay", 0, options); err != nil {
		w.t.Fatalf("mount the tools: %v", err)
	}
	w.t.Cleanup(func() {
		if err := unix.Unmount(w.root, 0); err != nil {
			w.t.Errorf("unmount the tools: %v", err)
		}
	})
	for _, part := range []string{"node", "npm", "python", "clients", "go", "maven"} {
		at := filepath.Join(w.root, "opt", part)
		if err := os.MkdirAll(at, 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := unix.Mount(filepath.Join(tools, part), at, "", unix.MS_BIND, ""); err != nil {
			w.t.Fatalf("mount the tools: %v", err)
		}
		w.t.Cleanup(func() {
			if err := unix.Unmount(at, 0); err != nil {
				w.t.Errorf("unmount the tools: %v", err)
			}
		})
	}
}

// write writes a file of the guest.
func (w *world) write(name, content string) {
	w.t.Helper()
	path := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// startBundle joins the namespaces of the guest and of the bundle, and runs the proxy in
// the latter.
func (w *world) startBundle(options bundleproxy.Options) {
	w.t.Helper()
	bundle := netns.New(w.t)
	w.guest = netns.New(w.t)
	pid := strings.Split(w.guest, "/")[2]
	for _, line := range []string{
		"ip link add bundle0 type veth peer name guest0", "ip link set guest0 netns " + pid,
		"ip addr add " + bundleIP.String() + "/24 dev bundle0", "ip link set bundle0 up",
	} {
		w.inNamespace(bundle, line)
	}
	for _, line := range []string{"ip link set lo up", "ip addr add 192.168.44.3/24 dev guest0", "ip link set guest0 up"} {
		w.inNamespace(w.guest, line)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		// Run listens in this goroutine. The thread ends with it.
		runtime.LockOSThread()
		if err := enter(bundle); err != nil {
			ended <- err
			return
		}
		options.Listen, options.Resolver = fmt.Sprintf("%s:%d", bundleIP, guestenv.ProxyPort), names{}
		options.Networks = func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("192.168.44.0/24")}, nil }
		options.Ready = func(net.Addr) { close(ready) }
		ended <- bundleproxy.Run(ctx, options)
	}()
	select {
	case <-ready:
	case err := <-ended:
		w.t.Fatalf("bundle: %v", err)
	}
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("bundle: %v", err)
		}
	})
}

func enter(namespace string) error {
	f, err := os.Open(namespace)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

func (w *world) inNamespace(namespace, line string) {
	w.t.Helper()
	if out, err := exec.Command("nsenter", append([]string{"--net=" + namespace}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v: %s", line, err, out)
	}
}

// names resolves the names of the hosts.
type names struct{}

func (names) LookupNetIP(_ context.Context, _, name string) ([]netip.Addr, error) {
	if slices.Contains([]string{plainHost, publicHost, openedHost}, strings.TrimSuffix(name, ".")) {
		return []netip.Addr{outsideIP}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// serve serves the site on loopback, and returns the address.
func (w *world) serve(config *tls.Config) string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	server := &http.Server{Handler: w.site, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(config != nil)
	server.Protocols.SetUnencryptedHTTP2(config == nil) // gRPC without TLS
	go func() {
		if config == nil {
			_ = server.Serve(l)
		} else {
			_ = server.ServeTLS(l, "", "")
		}
	}()
	w.t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

// imageEnvironment is what the guest's image sets.
var imageEnvironment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}

// environment is exactly what a guest gets, and what its image sets. In one with opened
// hosts, that is more.
func (w *world) environment(opened string) []string {
	w.t.Helper()
	vars, err := guestenv.Build(bundleIP, "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	all, _ := guestenv.Split(vars)
	if opened == withOpened {
		maps.Copy(all, guestenv.Opened(bundleIP, all, nil, nil))
	}
	env := slices.Clone(imageEnvironment)
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	return env
}

// run runs a script in the guest with only this environment, and returns what it printed.
func (w *world) run(env []string, script string) (output string, err error) {
	if env == nil {
		env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), runTimeout)
	defer cancel()
	argv := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc=" + filepath.Join(w.root, "proc"), "--",
		"sh", "-c", `mount --bind /dev "$1/dev" && exec chroot "$@"`, "chroot", w.root, "/usr/bin/env", "-i"}
	argv = append(append(argv, env...), "sh", "-c", script)
	cmd := exec.CommandContext(ctx, "unshare", argv...)
	if w.guest != "" {
		cmd = exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + w.guest, "--", "unshare"}, argv...)...)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 5*time.Second
	err = cmd.Run()
	return out.String(), err
}

// authority issues certificates.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	a := authority{key: newKey(t)}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, SubjectKeyId: []byte(name),
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a authority) issue(t *testing.T, host string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, AuthorityKeyId: a.cert.SubjectKeyId,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
