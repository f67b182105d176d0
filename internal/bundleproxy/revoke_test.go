// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// clientHello returns the first bytes of a TLS connection.
func clientHello(t *testing.T, sni string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake()
	}()
	buf := make([]byte, 4096)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// stream starts a response that lasts until the test ends, and returns its body after
// the first line.
func (ow *openedWorld) stream(c *http.Client, path string) (io.ReadCloser, *bufio.Reader) {
	ow.t.Helper()
	resp, err := c.Do(request("GET", path, nil))
	if err != nil {
		ow.t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); err != nil || line != "first\n" {
		ow.t.Fatalf("stream: got %q, %v", line, err)
	}
	return resp.Body, r
}

func endless(rw http.ResponseWriter, r *http.Request) {
	fmt.Fprintln(rw, "first")
	_ = http.NewResponseController(rw).Flush()
	<-r.Context().Done()
}

// TestRevokedRequestsEnd checks that a change of the rules ends a response under way if
// another rule or none matches it now, and leaves the others alone.
func TestRevokedRequestsEnd(t *testing.T) {
	const kept, gone = `{"host":"api.example.com:443","http":[{"paths":["/kept"]}]}`, `{"host":"api.example.com:443","http":[{"paths":["/gone"]}]}`
	const changed = `{"host":"api.example.com:443","http":[{"paths":["/gone"]}],"credential":{"secret":"model","key":"token","header":"X-Api-Key"}}`
	for name, rules := range map[string]string{
		"no rule": rulesFile("", kept), "another rule": rulesFile("", changed, kept), "the order": rulesFile("", kept, `{"host":"api.example.com:443"}`, gone),
	} {
		for _, version := range []string{"1.1", "2"} {
			t.Run(name+", HTTP/"+version, func(t *testing.T) {
				ow := newOpenedWorld(t, kept, gone)
				ow.setHandler(endless)
				c := ow.client(version)
				keptBody, keptR := ow.stream(c, "/kept")
				goneBody, goneR := ow.stream(c, "/gone")
				defer keptBody.Close()
				defer goneBody.Close()
				read := make(chan error, 1)
				go func() {
					_, err := keptR.ReadByte()
					read <- err
				}()
				ow.replaceRules(rules)
				if _, err := goneR.ReadByte(); err == nil || errors.Is(err, io.EOF) {
					t.Errorf("revoked: got %v, want an error", err)
				}
				ow.eventually("the end is logged", func() bool { return strings.Contains(ow.log.String(), `"cause":"rules-changed"`) })
				select {
				case err := <-read:
					t.Errorf("kept: got %v, want the response to go on", err)
				default:
				}
			})
		}
	}
}

// TestTunnelsBecomeOpened checks that a tunnel ends when its host gets a rule, and an opened
// connection when its host has none any more.
func TestTunnelsBecomeOpened(t *testing.T) {
	ow := newOpenedWorld(t)
	ow.replaceRules(rulesFile("api.example.com:443"))
	ow.eventually("the host is allowed", func() bool {
		conn := ow.connect()
		defer conn.Close()
		_, _ = io.WriteString(conn, connect("api.example.com:443"))
		status, _ := ow.readResponse(bufio.NewReader(conn))
		return status == 200
	})
	tunnel, tunnelR := ow.tunnel("api.example.com:443")
	defer tunnel.Close()
	ow.replaceRules(rulesFile("", credentialRule))
	if _, err := tunnelR.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("tunnel: got %v, want EOF", err)
	}
	conn, r := ow.dialOpened("api.example.com:443", "api.example.com")
	defer conn.Close()
	ow.replaceRules(rulesFile("api.example.com:443"))
	if _, err := r.ReadByte(); err == nil {
		t.Errorf("opened connection: got more, want its end")
	}
}

// TestUpstreamCertificates checks that only a proper certificate of the host is accepted,
// and that the request is not sent otherwise.
func TestUpstreamCertificates(t *testing.T) {
	for name, get := range map[string]func(t *testing.T, ow *openedWorld, hello *tls.ClientHelloInfo) (*tls.Certificate, error){
		"another authority": func(t *testing.T, _ *openedWorld, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			l, err := newLeaves(newCA(t, "stranger"))
			if err != nil {
				return nil, err
			}
			return l.get(hello.ServerName)
		},
		"another name": func(_ *testing.T, ow *openedWorld, _ *tls.ClientHelloInfo) (*tls.Certificate, error) {
			l, err := newLeaves(ow.hostCA)
			if err != nil {
				return nil, err
			}
			return l.get("evil.example.com")
		},
		"expired": func(_ *testing.T, ow *openedWorld, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			l, err := newLeaves(ow.hostCA)
			if err != nil {
				return nil, err
			}
			l.now = func() time.Time { return time.Now().Add(-2 * leafValidity) }
			return l.get(hello.ServerName)
		},
		"the Bottle's own authority": func(_ *testing.T, ow *openedWorld, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return ow.bundleLeaf(hello.ServerName)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ow := newOpenedWorld(t, credentialRule)
			ow.server.TLS.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return get(t, ow, hello) }
			status, body := ow.get("/")
			if status != 502 || !strings.Contains(ow.log.String(), `"cause":"upstream-certificate"`) || len(ow.requests) > 0 {
				t.Errorf("got %d %q and requests %q, want 502 because of the certificate", status, body, ow.requests)
			}
		})
	}
}

// TestOldTLSIsRefused checks both sides of an opened connection.
func TestOldTLSIsRefused(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	raw, _ := ow.tunnel("api.example.com:443")
	defer raw.Close()
	if err := tls.Client(raw, &tls.Config{RootCAs: ow.guest, ServerName: "api.example.com", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}).Handshake(); err == nil {
		t.Error("guest with TLS 1.1: got a connection, want none")
	}
	ow.server.TLS.MaxVersion, ow.server.TLS.MinVersion = tls.VersionTLS11, tls.VersionTLS10
	if status, body := ow.get("/"); status != 502 || len(ow.requests) > 0 {
		t.Errorf("host with TLS 1.1: got %d %q, want 502", status, body)
	}
}

// TestNewAuthority checks that the bundle shows certificates of a new authority at once,
// and that without one it refuses.
func TestNewAuthority(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	if status, body := ow.get("/"); status != 200 {
		t.Fatalf("got %d %q, want 200", status, body)
	}
	ow.guest = x509.NewCertPool()
	ow.writeCA(t)
	if status, body := ow.get("/"); status != 200 {
		t.Errorf("new authority: got %d %q, want 200", status, body)
	}
	ow.removeCA(t)
	status, _ := ow.roundTrip(connect("api.example.com:443"))
	if status != 403 || !strings.Contains(ow.log.String(), `"cause":"credential-missing"`) {
		t.Errorf("no authority: got %d, want 403; log:\n%s", status, ow.log.String())
	}
}

// TestOpenedLeavesNothing checks that nothing stays behind when the guests have gone.
func TestOpenedLeavesNothing(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/endless" {
			endless(rw, r)
		}
	})
	before := -1
	for round := range 2 {
		var clients []*http.Client
		for i := range 8 {
			c := ow.client([]string{"1.1", "2"}[i%2])
			body, _ := ow.stream(c, "/endless")
			ow.send(c, request("POST", "/", strings.NewReader("x")))
			body.Close()
			clients = append(clients, c)
			raw, _ := ow.tunnel("api.example.com:443")
			raw.Close()
		}
		ow.eventually("the bundle lets go", func() bool {
			for _, c := range clients {
				c.CloseIdleConnections() // of HTTP/2, when the stream has ended
			}
			ow.opener.mu.Lock()
			defer ow.opener.mu.Unlock()
			return len(ow.opener.conns) == 0 && len(ow.opener.under) == 0 && len(ow.opener.slots) == 0
		})
		if round == 0 {
			ow.opener.transport.closeIdle()
			ow.eventually("few goroutines are left", func() bool { before = runtime.NumGoroutine(); return before < 60 })
		}
	}
	ow.opener.transport.closeIdle()
	ow.eventually("no more goroutines than after the first round", func() bool { return runtime.NumGoroutine() <= before+10 })
}
