// SPDX-License-Identifier: Apache-2.0

// Package tools runs the tools that guests use, as their registries ship them, with
// exactly a guest's environment and with the bundle's proxy as the only way out of a
// network namespace. It prints what works with nothing set, and compares it with
// docs/tools.md.
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
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bundleproxy"
	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/test/netns"
	"botbottle.dev/bottle-operator/test/require"
)

// The hosts. Each has one kind of certificate.
const (
	plainHost  = "plain.example.com"  // none
	publicHost = "public.example.com" // of an authority that the guest's image trusts
	openedHost = "opened.example.com" // of the Bottle's CA
)

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
	image, bottle := newAuthority(t, "the image's CA"), newAuthority(t, "the Bottle's CA")
	w.write("usr/local/share/ca-certificates/image.crt", string(image.pem))
	// The image's authority stands for a public one: no test has a certificate of those.
	w.write("run/bottle-ca/bundle.pem", string(append(cabundle.WithPublicRoots(bottle.pem), image.pem...)))
	if out, err := w.run(nil, "update-ca-certificates"); err != nil {
		t.Fatalf("update-ca-certificates: %v: %s", err, out)
	}

	plain, secure := w.serve(nil), w.serve(&tls.Config{Certificates: []tls.Certificate{image.issue(t, publicHost), bottle.issue(t, openedHost)},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen[hello.ServerName] = true
			return nil, nil
		}})
	w.startBundle(map[uint16]string{80: plain, 443: secure})
	return w
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
	for _, part := range []string{"node", "npm", "python", "go", "maven"} {
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
// the latter. It connects to the servers of this process, by port.
func (w *world) startBundle(servers map[uint16]string) {
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
	rules := filepath.Join(w.t.TempDir(), "egress.json")
	content := fmt.Sprintf(`{"version":1,"allow":["%s:80","%s:443","%s:443"]}`, plainHost, publicHost, openedHost)
	if err := os.WriteFile(rules, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
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
		ended <- bundleproxy.Run(ctx, bundleproxy.Options{
			Listen: fmt.Sprintf("%s:%d", bundleIP, guestenv.ProxyPort), RulesPath: rules, Resolver: names{},
			Networks: func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("192.168.44.0/24")}, nil },
			Dial: func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", servers[to.Port()])
				if err != nil {
					return nil, err
				}
				return conn.(*net.TCPConn), nil
			},
			Ready: func(net.Addr) { close(ready) },
		})
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
	address := l.Addr().String()
	if config != nil {
		config.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, config)
	}
	server := &http.Server{Handler: w.site, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(l) }()
	w.t.Cleanup(func() { _ = server.Close() })
	return address
}

// environment is exactly what a guest gets, and what its image sets. caPath may be "".
func (w *world) environment(caPath string) []string {
	w.t.Helper()
	vars, err := guestenv.Build(bundleIP, caPath, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	for _, v := range vars {
		env = append(env, v.Name+"="+v.Value)
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
