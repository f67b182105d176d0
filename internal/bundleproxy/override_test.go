// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net/http"
	"strings"
	"testing"
)

// TestOverridesOfMethodAndPath: some servers take the method and the path of a request from
// its headers, so that a rule must let these through too.
func TestOverridesOfMethodAndPath(t *testing.T) {
	limited := newOpenedWorld(t, `{"host":"api.example.com:443","http":[{"methods":["POST","PUT"],"paths":["/v1/**"]}]}`)
	open := newOpenedWorld(t, `{"host":"api.example.com:443"}`)
	for _, tt := range []struct {
		header, value string
		status        int // with the limited rule
	}{
		{"X-HTTP-Method-Override", "DELETE", 403},
		{"X-Http-Method", " delete ", 403},
		{"X-Method-Override", "PATCH", 403},
		{"x_http_method_override", "DELETE", 403},
		{"X-HTTP-Method-Override", "PUT", 200},
		{"X-HTTP-Method-Override", "", 200},
		{"X-Original-URL", "/admin", 403},
		{"X-Rewrite-URL", "/admin", 403},
		{"X-Original", "/admin", 200},
	} {
		for ow, want := range map[*openedWorld]int{limited: tt.status, open: 200} {
			r := request("POST", "/v1/x", http.NoBody)
			r.Header[tt.header] = []string{tt.value}
			resp, body := ow.send(ow.client("1.1"), r)
			if resp.StatusCode != want || want == 403 && !strings.Contains(body, "asks the host for another method or path") {
				t.Errorf("%s: %q: got %d %q, want %d", tt.header, tt.value, resp.StatusCode, body, want)
			}
		}
	}
}

// TestNoWebSocketWithABody: a server may read the body of such a request as messages. They
// are masked, so that the search of the body would not find a known secret in them.
func TestNoWebSocketWithABody(t *testing.T) {
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	for head, want := range map[string]string{"\r\n": "websocket", "Content-Length: 2\r\n\r\nhi": "", "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n": ""} {
		ow := newOpenedWorld(t, `{"host":"api.example.com:443"}`)
		ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("X-Got", "<"+r.Header.Get("Upgrade")+">")
		})
		conn, reader := ow.dialOpened("api.example.com:443", "api.example.com", "http/1.1")
		if _, err := conn.Write([]byte("GET /ws HTTP/1.1\r\nHost: api.example.com\r\n" + upgrade + head)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("X-Got"); got != "<"+want+">" {
			t.Errorf("%q: the host got Upgrade %s, want %q", head, got, want)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
	}
}
