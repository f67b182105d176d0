// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestOpenedAttacks sends raw requests of HTTP/1.1 into an opened connection. None may
// reach the host in another form than the one that was decided on.
func TestOpenedAttacks(t *testing.T) {
	const hidden = "GET /secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
	for name, tt := range map[string]struct {
		raw    string
		status int
		cause  string // in the log; "" for none
		host   string // what the host gets: "METHOD URI BODY"; "" for nothing
	}{
		"allowed":              {"GET /v1/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 200, "", "GET /v1/x "},
		"with the port":        {"GET /v1/x HTTP/1.1\r\nHost: API.example.com.:443\r\n\r\n", 200, "", "GET /v1/x "},
		"other path":           {"GET /v2/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "method-path", ""},
		"other method":         {"DELETE /v1/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "method-path", ""},
		"method in lower case": {"get /v1/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "method-path", ""},
		"dots":                 {"GET /v1/../secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "method-path", ""},
		"escaped dots":         {"GET /v1/%2e%2e/secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "", ""},
		"dots with parameters": {"GET /v1/..;/secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "path", ""},
		"escaped twice":        {"GET /v1/%252e%252e/secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "path", ""},
		"escaped slash":        {"GET /v1/..%2fsecret HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "path", ""},
		"backslash":            {"GET /v1/..\\secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "path", ""},
		"slashes":              {"GET //v1//x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 200, "", "GET /v1/x "},
		"sent in one form":     {"GET /v1/./%78%7e?a=%zz;b&c%20d HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 200, "", "GET /v1/x~?a=%zz;b&c%20d "},
		"absolute form":        {"GET https://api.example.com/v1/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "request", ""},
		"absolute, other":      {"GET http://evil.example.com/v1/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "request", ""},
		"other Host":           {"GET /v1/x HTTP/1.1\r\nHost: evil.example.com\r\n\r\n", 403, "host-mismatch", ""},
		"other port":           {"GET /v1/x HTTP/1.1\r\nHost: api.example.com:8443\r\n\r\n", 403, "host-mismatch", ""},
		"user in Host":         {"GET /v1/x HTTP/1.1\r\nHost: x@api.example.com\r\n\r\n", 0, "", ""},
		"two Hosts":            {"GET /v1/x HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.example.com\r\n\r\n", 400, "", ""},
		"no Host":              {"GET /v1/x HTTP/1.0\r\n\r\n", 403, "host-mismatch", ""},
		"CONNECT":              {"CONNECT evil.example.com:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "request", ""},
		"OPTIONS *":            {"OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 403, "request", ""},
		"HTTP/2 unasked":       {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 403, "request", ""},
		"both lengths": {
			"POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, "", "POST /v1/x abc",
		},
		"two lengths":      {"POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, "", ""},
		"space in a name":  {"POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length : 3\r\n\r\nabc", 400, "", ""},
		"unknown coding":   {"POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: xchunked\r\n\r\nabc", 501, "", ""},
		"inside the body":  {fmt.Sprintf("POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: %d\r\n\r\n", len(hidden)) + hidden, 200, "", "POST /v1/x " + hidden},
		"behind the body":  {"POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 3\r\n\r\nabc" + hidden, 200, "", "POST /v1/x abc"},
		"to h2c":           {"GET /v1/x HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", 200, "", "GET /v1/x "},
		"header by header": {"GET /v1/x HTTP/1.1\r\nHost: api.example.com\r\nConnection: Authorization, X-Api-Key, Host\r\n\r\n", 200, "", "GET /v1/x "},
		"trailers": {
			"POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nTrailer: Authorization, Host, X_Api_Key, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: g1\r\nHost: evil.example.com\r\n\r\n", 0, "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ow := newOpenedWorld(t, `{"host":"api.example.com:443","http":[{"methods":["GET","POST"],"paths":["/v1/**"]}],"credential":{"secret":"model","key":"token","header":"Authorization"}}`)
			var mu sync.Mutex
			var seen []string
			ow.setHandler(func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, r.Method+" "+r.RequestURI+" "+string(body))
				if r.Host != "api.example.com" || fmt.Sprint(r.Header["Authorization"]) != "["+planted+"]" || len(r.Trailer["Authorization"]) > 0 || r.Header.Get("Upgrade") != "" {
					t.Errorf("host: got %s %v %v, want its name and the credential once", r.Host, r.Header, r.Trailer)
				}
			})
			conn, r := ow.dialOpened("api.example.com:443", "api.example.com")
			defer conn.Close()
			_, _ = io.WriteString(conn, tt.raw)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if tt.status != 0 && resp.StatusCode != tt.status || tt.status == 0 && resp.StatusCode == 200 && name != "trailers" {
				t.Errorf("answer: got %d %q, want %d", resp.StatusCode, body, tt.status)
			}
			if tt.cause != "" && !strings.Contains(ow.log.String(), `"cause":"`+tt.cause+`"`) {
				t.Errorf("log: got %s, want cause %s", ow.log.String(), tt.cause)
			}
			if name == "trailers" {
				return
			}
			if name == "behind the body" { // the next request is decided on by itself
				if status, body := ow.readResponse(r); status != 403 {
					t.Errorf("hidden request: got %d %q, want 403", status, body)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(seen, "|"); got != tt.host {
				t.Errorf("host: got %q, want %q", got, tt.host)
			}
		})
	}
}

// TestRefusalSaysWhatIsAllowed checks the text for a request that no rule matches.
func TestRefusalSaysWhatIsAllowed(t *testing.T) {
	ow := newOpenedWorld(t, `{"host":"api.example.com:443","http":[{"methods":["GET","POST"],"paths":["/v1/**"]},{"paths":["/health"]},{"methods":["HEAD"]}]}`)
	_, body := ow.get("/secret")
	for _, want := range []string{"GET, POST /v1/**", "any method /health", "HEAD any path", "spec.egress.rules"} {
		if !strings.Contains(body, want) {
			t.Errorf("got %q, want %q in it", body, want)
		}
	}
	if strings.Contains(body, "secret") {
		t.Errorf("got %q, want nothing of the request", body)
	}
}

// TestOpenedHTTP2Attacks sends frames of HTTP/2 whose pseudo-headers disagree.
func TestOpenedHTTP2Attacks(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	for name, tt := range map[string]struct {
		fields [][2]string
		status string // "" for an error
	}{
		"allowed":         {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "/x"}}, "200"},
		"other authority": {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "evil.example.com"}, {":path", "/x"}}, "403"},
		"other Host":      {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "/x"}, {"host", "evil.example.com"}}, "403"},
		"only Host":       {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/x"}, {"host", "evil.example.com"}}, "403"},
		"CONNECT":         {[][2]string{{":method", "CONNECT"}, {":authority", "evil.example.com:443"}}, "403"},
		"absolute path":   {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "https://evil.example.com/x"}}, "403"},
		"a connection":    {[][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "/x"}, {"connection", "authorization"}}, ""},
		"a coding":        {[][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "api.example.com"}, {":path", "/x"}, {"transfer-encoding", "chunked"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := ow.dialOpened("api.example.com:443", "api.example.com", "h2")
			defer conn.Close()
			_, _ = io.WriteString(conn, http2.ClientPreface)
			framer := http2.NewFramer(conn, conn)
			framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			_ = framer.WriteSettings()
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for _, f := range tt.fields {
				_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			got := ""
			for got == "" {
				f, err := framer.ReadFrame()
				if err != nil {
					got = "error"
					break
				}
				switch f := f.(type) {
				case *http2.MetaHeadersFrame:
					got = f.PseudoValue("status")
				case *http2.RSTStreamFrame, *http2.GoAwayFrame:
					got = "error"
				}
			}
			if want := tt.status; got != want && (want != "" || got == "200") {
				t.Errorf("got %s, want %q", got, want)
			}
		})
	}
	ow.world.mu.Lock()
	defer ow.world.mu.Unlock()
	if len(ow.requests) != 1 {
		t.Errorf("host: got %q, want one request", ow.requests)
	}
}

// TestPlainRequestsToOpenedHosts checks that plain HTTP to an opened host is inspected,
// and that it never carries a credential.
func TestPlainRequestsToOpenedHosts(t *testing.T) {
	ow := newOpenedWorld(t, `{"host":"api.example.com:80","http":[{"paths":["/open/**"]}]}`,
		`{"host":"api.example.com:80","http":[{"paths":["/key"]}],"credential":{"secret":"model","key":"token","header":"Authorization"}}`)
	for path, want := range map[string]struct {
		status int
		cause  string
	}{"/open/x": {200, ""}, "/open/../key": {403, "needs-tls"}, "/other": {403, "method-path"}, "/open/x?q=" + known: {403, "known-secret"}} {
		status, body := ow.roundTrip("GET http://u:p@api.example.com" + path + " HTTP/1.1\r\nHost: evil.example.com\r\nProxy-Authorization: x\r\n\r\n")
		if status != want.status || want.cause != "" && !strings.Contains(ow.log.String(), `"cause":"`+want.cause+`"`) {
			t.Errorf("%s: got %d %q, want %d %s", path, status, body, want.status, want.cause)
		}
	}
	ow.world.mu.Lock()
	defer ow.world.mu.Unlock()
	if got := strings.Join(ow.requests, "|"); got != "GET api.example.com /open/x" {
		t.Errorf("host: got %q, want one request", got)
	}
}

// TestOpenedNeedsTLS checks what a guest gets that speaks no TLS in an opened connection,
// or names another host in it.
func TestOpenedNeedsTLS(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	conn, r := ow.tunnel("api.example.com:443")
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	if status, _ := ow.readResponse(r); status != 403 {
		t.Errorf("HTTP without TLS: got %d, want 403", status)
	}
	ow.eventually("needs-tls is logged", func() bool { return strings.Contains(ow.log.String(), `"cause":"needs-tls"`) })
	ssh, sshR := ow.tunnel("api.example.com:443")
	defer ssh.Close()
	_, _ = io.WriteString(ssh, "SSH-2.0-x\r\n")
	wantClosed(t, "another protocol", sshR)
	for _, sni := range []string{"evil.example.com", ""} {
		raw, rawR := ow.tunnel("api.example.com:443")
		_, _ = raw.Write(clientHello(t, sni))
		wantClosed(t, "SNI "+sni, bufio.NewReader(rawR))
		raw.Close()
	}
	ow.eventually("host-mismatch is logged", func() bool { return strings.Contains(ow.log.String(), `"cause":"host-mismatch"`) })
}
