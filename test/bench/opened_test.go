// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

const (
	// stream is the number of bytes of one response in the throughput runs.
	stream = 128 << 20
	// rounds is how often each kind of request is measured.
	rounds = 300
	// openedConnections is how many clients are connected for the second memory row.
	openedConnections = 100

	bundleAddr = "192.0.2.2:8888"
	serverAddr = "203.0.113.10:443"
	credential = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz"
)

// BenchmarkOpened compares requests through the real bundle, by a tunnel and by an
// opened host whose rule adds a credential, with direct requests to the same server.
// Client, bundle and server are in three network namespaces; the client's traffic to
// the server is routed through that of the bundle. None of them has a way out.
func BenchmarkOpened(b *testing.B) {
	n := newNetwork(b)
	pid := n.startBundle(b)
	report(row{What: "bundle: RSS idle, with 1 credential and 100 Secrets", Value: rss(b, pid), Unit: "MiB", Goal: "<= 12"})
	n.latency(b, "HTTP/1.1")
	n.latency(b, "HTTP/2")
	n.throughput(b, pid)
	n.manyConnections(b, pid)
}

// latency measures small requests, on new connections and on a kept one.
func (n *benchNetwork) latency(b *testing.B, protocol string) {
	b.Helper()
	kinds := []string{"direct", "tunnel", "opened"}
	kept := map[string]*http.Client{}
	for _, kind := range kinds {
		kept[kind] = n.client(kind, protocol)
		get(b, kept[kind], kind, "/small")
	}
	for _, what := range []string{"kept connection", "new connection"} {
		took := map[string][]time.Duration{}
		for i := range rounds {
			for j := range kinds {
				kind := kinds[(i+j)%len(kinds)] // none always follows the same one
				client := kept[kind]
				if what == "new connection" {
					client = n.client(kind, protocol)
				}
				begin := time.Now()
				get(b, client, kind, "/small")
				took[kind] = append(took[kind], time.Since(begin))
				if client != kept[kind] {
					client.CloseIdleConnections()
				}
			}
		}
		direct := percentile(took["direct"], 50)
		for _, kind := range kinds {
			r := row{What: fmt.Sprintf("request, %s, %s: %s", protocol, what, kind), Value: ms(percentile(took[kind], 50)), Unit: "ms", Spread: fineSpread(took[kind])}
			report(r)
		}
		for kind, goal := range map[string]string{"tunnel": "<= 1", "opened": "<= 3"} {
			report(row{What: fmt.Sprintf("  %s adds at p50 (%s, %s)", kind, protocol, what), Value: ms(percentile(took[kind], 50) - direct), Unit: "ms", Goal: goal})
			report(row{What: fmt.Sprintf("  %s adds at p95 (%s, %s)", kind, protocol, what), Value: ms(percentile(took[kind], 95) - percentile(took["direct"], 95)), Unit: "ms"})
		}
	}
}

func fineSpread(sample []time.Duration) string {
	return fmt.Sprintf("p50 %.2f p95 %.2f ms, n=%d", ms(percentile(sample, 50)), ms(percentile(sample, 95)), len(sample))
}

// throughput measures one long response at a time, and the CPU time that the bundle
// needs for it, which other work on the machine hardly changes.
func (n *benchNetwork) throughput(b *testing.B, pid int) {
	b.Helper()
	kinds := []string{"direct", "tunnel", "opened", "opened, HTTP/2"}
	took := map[string][]time.Duration{}
	cpu, all := map[string]time.Duration{}, map[string]time.Duration{} // of the bundle, and with both ends
	for range 5 {
		for _, kind := range kinds {
			name, _, _ := strings.Cut(kind, ",")
			protocol := "HTTP/1.1"
			if name != kind {
				protocol = "HTTP/2"
			}
			client := n.client(name, protocol)
			get(b, client, name, "/small")
			begin, used, ends := time.Now(), cpuTime(b, pid), cpuTime(b, os.Getpid())
			if got := get(b, client, name, "/stream"); got != stream {
				b.Fatalf("%s: got %d bytes, want %d", kind, got, stream)
			}
			took[kind] = append(took[kind], time.Since(begin))
			cpu[kind] += cpuTime(b, pid) - used
			all[kind] += cpuTime(b, pid) - used + cpuTime(b, os.Getpid()) - ends
			client.CloseIdleConnections()
		}
	}
	ratio := func(kind string) float64 {
		return float64(percentile(took["tunnel"], 50)) / float64(percentile(took[kind], 50))
	}
	report(row{What: "stream: throughput of an opened host, ratio to a tunnel's", Value: ratio("opened"), Unit: "ratio", Goal: ">= 0.5",
		Spread: fmt.Sprintf("opened %s; tunnel %s", spread(took["opened"]), spread(took["tunnel"]))})
	report(row{What: "  the same ratio by the CPU time of bundle, client and server", Value: float64(all["tunnel"]) / float64(all["opened"]), Unit: "ratio"})
	report(row{What: "  by HTTP/2, ratio to a tunnel's by HTTP/1.1", Value: ratio("opened, HTTP/2"), Unit: "ratio"})
	for _, kind := range kinds {
		report(row{What: "  stream: " + kind, Value: stream / 1e6 / percentile(took[kind], 50).Seconds(), Unit: "MB/s",
			Spread: fmt.Sprintf("%.2f s of the bundle's CPU time for each GB", cpu[kind].Seconds()*1e9/stream/float64(len(took[kind])))})
	}
}

// manyConnections measures the bundle's memory while many clients each read a stream.
func (n *benchNetwork) manyConnections(b *testing.B, pid int) {
	b.Helper()
	for range openedConnections {
		client := n.client("opened", "HTTP/1.1")
		resp, err := client.Get("https://opened.test/hold")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			resp.Body.Close()
			client.CloseIdleConnections()
		})
		if _, err := io.ReadFull(resp.Body, make([]byte, len(firstEvent))); err != nil {
			b.Fatal(err)
		}
	}
	report(row{What: fmt.Sprintf("bundle: RSS with %d opened connections", openedConnections), Value: rss(b, pid), Unit: "MiB", Goal: "<= 30"})
}

// get reads the response to a request and returns its length. It fails the benchmark
// if the request did not take the way that is measured.
func get(b *testing.B, client *http.Client, kind, path string) int64 {
	b.Helper()
	resp, err := client.Get("https://" + kind + ".test" + path)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	size, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s%s: got %d bytes, %s, %v", kind, path, size, resp.Status, err)
	}
	if got, want := resp.Header.Get("Had-Credential"), strconv.FormatBool(kind == "opened"); got != want {
		b.Fatalf("%s: got a request with the credential: %s, want %s", kind, got, want)
	}
	return size
}

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
