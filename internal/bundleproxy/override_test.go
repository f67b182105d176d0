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
