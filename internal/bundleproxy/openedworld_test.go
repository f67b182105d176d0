// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/brokerfile"
)

const (
	// planted is the value of the credential, and known another secret.
	planted = "sk-planted-0123456789abcdef/+=Z"
	known   = "ghp_KnownSecretOfTheEnvironment42"
	short   = "hunter2-pw"
)

// openedWorld is a world with hosts that speak TLS on port 443, and whose connections
// the bundle opens.
type openedWorld struct {
	*world
	dir    string // with the files of package brokerfile
	server *httptest.Server
	guest  *x509.CertPool // what the guest trusts
	hostCA bottleca.CA    // of the host
	opener *opener
	leaves *leaves // of the bundle
}

// credentialRule is a rule with the planted credential.
const credentialRule = `{"host":"api.example.com:443","credential":{"secret":"model","key":"token","header":"Authorization","prefix":"Bearer "}}`

// rulesFile returns a rules file with these rules for opened hosts.
func rulesFile(allow string, rules ...string) string {
	var hosts []string
	for _, r := range rules {
		var one struct{ Host string }
		if err := json.Unmarshal([]byte(r), &one); err != nil {
			panic(err)
		}
		hosts = append(hosts, one.Host)
	}
	opened, _ := json.Marshal(hosts)
	all := append([]string{}, hosts...)
	if allow != "" {
		all = append(all, strings.Split(allow, " ")...)
	}
	allowed, _ := json.Marshal(all)
	return fmt.Sprintf(`{"version":2,"allow":%s,"opened":%s,"http":[%s]}`, allowed, opened, strings.Join(rules, ","))
}

func newOpenedWorld(t testing.TB, rules ...string) *openedWorld {
	return newOpenedWorldWith(t, func(*Options) {}, rules...)
}

func newOpenedWorldWith(t testing.TB, change func(*Options), rules ...string) *openedWorld {
	t.Helper()
	ow := &openedWorld{dir: t.TempDir(), guest: x509.NewCertPool()}
	ow.hostCA = newCA(t, "host")
	ow.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { ow.world.serve(rw, r) }))
	ow.server.EnableHTTP2 = true
	ow.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	ow.server.TLS = &tls.Config{GetCertificate: ow.hostCertificate}
	ow.server.StartTLS()
	t.Cleanup(ow.server.Close)
	ow.writeCA(t)
	ow.writeSecrets(t, planted)
	upstreamCA := filepath.Join(t.TempDir(), "upstream-ca.pem")
	writeNew(t, upstreamCA, []byte(pemOf(ow.hostCA.Certificate.Raw)))
	ow.world = newWorldWith(t, func(o *Options) {
		o.SecretsDir, o.UpstreamCA = ow.dir, upstreamCA
		o.started = func(p *proxy) { ow.opener = p.opener }
		plain := o.Dial
		o.Dial = func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error) {
			if addr.Port() == 80 {
				return plain(ctx, addr)
			}
			return dialTCP(ctx, netip.MustParseAddrPort(ow.server.Listener.Addr().String()))
		}
		writeNew(t, o.RulesPath, []byte(rulesFile("", rules...)))
		change(o)
	})
	return ow
}

// hostCertificate makes the host's certificate for any name.
func (ow *openedWorld) hostCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	l, err := newLeaves(ow.hostCA)
	if err != nil {
		return nil, err
	}
	if hello.ServerName == "" {
		return l.get("203.0.113.10")
	}
	return l.get(hello.ServerName)
}

func newCA(t testing.TB, name string) bottleca.CA {
	t.Helper()
	data, err := bottleca.New("ns", name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := bottleca.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// writeCA gives the bundle a new authority, which the guest trusts.
func (ow *openedWorld) writeCA(t testing.TB) {
	t.Helper()
	data, err := bottleca.New("ns", "bottle", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := bottleca.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	ow.guest.AddCert(ca.Certificate)
	if ow.leaves, err = newLeaves(ca); err != nil {
		t.Fatal(err)
	}
	writeNew(t, filepath.Join(ow.dir, brokerfile.CAFile), data)
}

// bundleLeaf returns a certificate as the bundle shows it to the guest.
func (ow *openedWorld) bundleLeaf(host string) (*tls.Certificate, error) { return ow.leaves.get(host) }

func (ow *openedWorld) removeCA(t testing.TB) {
	t.Helper()
	if err := os.Remove(filepath.Join(ow.dir, brokerfile.CAFile)); err != nil {
		t.Fatal(err)
	}
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// writeSecrets gives the bundle the credential with this value, and other secrets.
func (ow *openedWorld) writeSecrets(t testing.TB, value string) {
	t.Helper()
	data, err := brokerfile.Encode([]brokerfile.Secret{
		{Secret: "model", Key: "token", Value: []byte(value), Credential: true},
		{Secret: "env", Key: "long", Value: []byte(known)},
		{Secret: "env", Key: "short", Value: []byte(short)},
	})
	if err != nil {
		t.Fatal(err)
	}
	writeNew(t, filepath.Join(ow.dir, brokerfile.SecretsFile), data)
}

// writeNew renames a new file into place, as the agent does.
func writeNew(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

// client returns a guest's client of HTTP/1.1 or HTTP/2.
func (ow *openedWorld) client(version string) *http.Client {
	proxy := &url.URL{Scheme: "http", Host: ow.addr}
	tr := &http.Transport{
		Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: ow.guest}, ForceAttemptHTTP2: version == "2",
		DisableCompression: true, ExpectContinueTimeout: 20 * time.Second,
	}
	if version != "2" {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	ow.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport: tr, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send sends a request with a guest's client, and returns the response with its body.
func (ow *openedWorld) send(c *http.Client, r *http.Request) (*http.Response, string) {
	ow.t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		ow.t.Fatalf("%s %s: %v; log:\n%s", r.Method, r.URL, err, ow.log.String())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		ow.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return resp, string(body)
}

func (ow *openedWorld) get(path string) (status int, body string) {
	ow.t.Helper()
	resp, body := ow.send(ow.client("1.1"), request(http.MethodGet, path, nil))
	return resp.StatusCode, body
}

// request returns a request for a path of api.example.com.
func request(method, path string, body io.Reader) *http.Request {
	r, err := http.NewRequest(method, "https://api.example.com"+path, body)
	if err != nil {
		panic(err)
	}
	return r
}

// dialOpened returns a TLS connection of a guest to an opened host.
func (ow *openedWorld) dialOpened(target, sni string, protocols ...string) (*tls.Conn, *bufio.Reader) {
	ow.t.Helper()
	raw, _ := ow.tunnel(target)
	conn := tls.Client(raw, &tls.Config{RootCAs: ow.guest, ServerName: sni, NextProtos: protocols})
	if err := conn.Handshake(); err != nil {
		raw.Close()
		ow.t.Fatalf("TLS with the bundle: %v; log:\n%s", err, ow.log.String())
	}
	return conn, bufio.NewReader(conn)
}

// requestLines returns the log lines about requests to opened hosts.
func (ow *openedWorld) requestLines() []logLine {
	ow.t.Helper()
	var out []logLine
	for line := range strings.Lines(ow.log.String()) {
		var l logLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			ow.t.Fatalf("log line %q: %v", line, err)
		}
		if l.Decision != "" {
			l.Time = ""
			out = append(out, l)
		}
	}
	return out
}
