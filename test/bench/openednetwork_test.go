// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/netns"
)

// benchNetwork is the three namespaces and the authorities that the client trusts.
type benchNetwork struct {
	dir                  string
	guest, bundle, world string // namespaces
	upstream, bottle     []byte // certificates in PEM
}

func newNetwork(b *testing.B) *benchNetwork {
	b.Helper()
	n := &benchNetwork{dir: b.TempDir(), guest: netns.New(b), bundle: netns.New(b), world: netns.New(b)}
	script := `set -e
at() { ns=$1; shift; nsenter --net="$ns" "$@"; }
at "$2" ip link add cable0 type veth peer name eth0 netns "$1"
at "$2" ip link add cable1 type veth peer name eth0 netns "$3"
at "$1" ip addr add 192.0.2.1/24 dev eth0
at "$2" ip addr add 192.0.2.2/24 dev cable0
at "$2" ip addr add 198.51.100.2/24 dev cable1
at "$3" ip addr add 198.51.100.1/24 dev eth0
at "$3" ip addr add 203.0.113.10/32 dev lo
for ns in "$1" "$3"; do at "$ns" ip link set lo up; at "$ns" ip link set eth0 up; done
for link in lo cable0 cable1; do at "$2" ip link set "$link" up; done
at "$2" sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
at "$1" ip route add 203.0.113.10 via 192.0.2.2
at "$2" ip route add 203.0.113.10 via 198.51.100.1
at "$3" ip route add 192.0.2.0/24 via 198.51.100.2`
	if out, err := exec.Command("sh", "-c", script, "sh", n.guest, n.bundle, n.world).CombinedOutput(); err != nil {
		b.Fatalf("make the network: %v: %s", err, out)
	}
	n.startServer(b)
	return n
}

// inNamespace runs f on a thread that is in the namespace.
func inNamespace(namespace string, f func() error) error {
	return ownthread.Run(func() error {
		file, err := os.Open(namespace)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

const firstEvent = "data: first\n\n"

// startServer starts the server on the Internet of the network.
func (n *benchNetwork) startServer(b *testing.B) {
	b.Helper()
	authority, err := bottleca.New("bench", "upstream", time.Now())
	if err != nil {
		b.Fatal(err)
	}
	certificate := leaf(b, authority, "direct.test", "tunnel.test", "opened.test")
	n.upstream, err = bottleca.CertificateOnly(authority)
	if err != nil {
		b.Fatal(err)
	}
	var listener net.Listener
	if err := inNamespace(n.world, func() (err error) {
		listener, err = net.Listen("tcp", serverAddr)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	chunk := []byte(strings.Repeat("data: The quick brown fox jumps over the lazy dog.\n\n", 1300)[:64<<10])
	ended := make(chan struct{})
	server := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Had-Credential", strconv.FormatBool(r.Header.Get("Authorization") == "Bearer "+credential))
			w.Header().Set("Content-Type", "text/event-stream")
			switch r.URL.Path {
			case "/stream":
				for sent := 0; sent < stream; sent += len(chunk) {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			case "/hold":
				_, _ = io.WriteString(w, firstEvent)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-ended:
				}
			default:
				_, _ = io.WriteString(w, "a small answer\n")
			}
		}),
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	b.Cleanup(func() {
		close(ended)
		server.Close()
	})
}

// startBundle builds and starts the bundle, and returns its process ID.
func (n *benchNetwork) startBundle(b *testing.B) int {
	b.Helper()
	program := filepath.Join(n.dir, "bottle-bundle")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "../../cmd/bottle-bundle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build the bundle: %v: %s", err, out)
	}
	authority, err := bottleca.New("bench", "bottle", time.Now())
	if err != nil {
		b.Fatal(err)
	}
	if n.bottle, err = bottleca.CertificateOnly(authority); err != nil {
		b.Fatal(err)
	}
	secrets := []brokerfile.Secret{{Secret: "api", Key: "key", Value: []byte(credential), ResourceVersion: "1", Credential: true}}
	for i := range 100 {
		secrets = append(secrets, brokerfile.Secret{Secret: fmt.Sprintf("env-%d", i), Key: "value", Value: fmt.Appendf(nil, "%d-%x", i, strings.Repeat(strconv.Itoa(i*7919), 12)), ResourceVersion: "1"})
	}
	encoded, err := brokerfile.Encode(secrets)
	if err != nil {
		b.Fatal(err)
	}
	rules, err := json.Marshal(map[string]any{
		"version": 2, "allow": []string{"tunnel.test:443", "opened.test:443"}, "opened": []string{"opened.test:443"},
		"http": []any{map[string]any{
			"host": "opened.test:443", "http": []any{map[string]any{"methods": []string{"GET"}, "paths": []string{"/v1/**", "/*"}}},
			"credential": map[string]string{"secret": "api", "key": "key", "header": "Authorization", "prefix": "Bearer "},
		}},
	})
	if err != nil {
		b.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"rules.json": rules, "upstream-ca.pem": n.upstream, brokerfile.CAFile: authority, brokerfile.SecretsFile: encoded,
		"hosts": []byte("203.0.113.10 direct.test tunnel.test opened.test\n"),
	} {
		if err := os.WriteFile(filepath.Join(n.dir, name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	// The bundle resolves names by a file of its own.
	cmd := exec.Command("nsenter", "--net="+n.bundle, "unshare", "--mount", "sh", "-c", `mount --bind "$1/hosts" /etc/hosts && exec "$1/bottle-bundle" --rules "$1/rules.json" --secrets-dir "$1" --upstream-ca "$1/upstream-ca.pem" --listen "$2"`, "sh", n.dir, bundleAddr)
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := n.dial(bundleAddr)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("the bundle does not listen: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(3 * time.Second) // it is idle, not starting
	return cmd.Process.Pid
}

// dial connects from the client's namespace.
func (n *benchNetwork) dial(addr string) (conn net.Conn, err error) {
	err = inNamespace(n.guest, func() (err error) {
		conn, err = net.Dial("tcp", addr)
		return err
	})
	return conn, err
}

// client returns a client that has no connection yet.
func (n *benchNetwork) client(kind, protocol string) *http.Client {
	roots := x509.NewCertPool()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: protocol == "HTTP/2"}
	addr := bundleAddr
	switch kind {
	case "direct":
		addr = serverAddr
	default:
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: bundleAddr})
	}
	roots.AppendCertsFromPEM(n.upstream)
	if kind == "opened" {
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(n.bottle)
		transport.TLSClientConfig.RootCAs = roots
	}
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return n.dial(addr) }
	return &http.Client{Transport: transport}
}

// cpuTime returns the CPU time that a process has used.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+1:])
	user, errUser := strconv.Atoi(fields[11])
	system, errSystem := strconv.Atoi(fields[12])
	if err := errors.Join(errUser, errSystem); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // in the kernel's unit, USER_HZ
}

// rss returns the resident memory of a process in MiB.
func rss(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				b.Fatal(err)
			}
			return float64(kib) / 1024
		}
	}
	b.Fatalf("got no VmRSS of process %d", pid)
	return 0
}

// leaf returns a certificate for the names that the authority has signed.
func leaf(b *testing.B, authority []byte, names ...string) tls.Certificate {
	b.Helper()
	ca, err := bottleca.Parse(authority)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, &key.PublicKey, ca.Key)
	if err != nil {
		b.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
