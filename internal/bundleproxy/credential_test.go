// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// echoes are the forms in which a host sends back a credential.
func echoes(value string) map[string]string {
	return map[string]string{
		"plain": value, "base64": base64.StdEncoding.EncodeToString([]byte(value)), "base64 of more": base64.URLEncoding.EncodeToString([]byte("x:" + value)),
		"hex": hex.EncodeToString([]byte(value)), "percent": url.QueryEscape(value),
	}
}

// wantNothing checks that a text has the credential in no form.
func wantNothing(t *testing.T, what, text string) {
	t.Helper()
	for form, echo := range echoes(planted) {
		// The characters at the ends of base64 also belong to what is around the value.
		if inner := echo[2 : len(echo)-3]; strings.Contains(text, inner) {
			t.Errorf("%s: got the credential as %s in %q", what, form, text)
		}
	}
}

// TestEchoedCredentialIsMasked checks every part of a response.
func TestEchoedCredentialIsMasked(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	for form, echo := range echoes(planted) {
		ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Trailer", "X-Trailer")
			rw.Header().Set("X-Echo", "a "+echo+" b")
			rw.Header().Set("X-"+hex.EncodeToString([]byte(planted)), "name")
			if r.URL.Path == "/redirect" {
				rw.Header().Set("Location", "/?"+echo)
			}
			var w io.Writer = rw
			if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				rw.Header().Set("Content-Encoding", "gzip")
				zw := gzip.NewWriter(rw)
				defer zw.Close()
				w = zw
			}
			// In two pieces, so that the filter has to remember the first one.
			_, _ = io.WriteString(w, "begin "+echo[:5])
			_ = http.NewResponseController(rw).Flush()
			_, _ = io.WriteString(w, echo[5:]+" end")
			rw.Header().Set("X-Trailer", echo)
			rw.Header().Set(http.TrailerPrefix+"X-Other", echo)
		})
		for _, version := range []string{"1.1", "2"} {
			for _, coding := range []string{"", "gzip", "br, gzip;q=0.5", "zstd", "gzip;q=0"} {
				r := request("GET", "/redirect", nil)
				r.Header.Set("Accept-Encoding", coding)
				resp, body := ow.send(ow.client(version), r)
				what := fmt.Sprintf("%s, HTTP/%s, %q", form, version, coding)
				wantNothing(t, what, fmt.Sprint(body, resp.Header, resp.Trailer))
				if !strings.HasPrefix(body, "begin ") || !strings.HasSuffix(body, " end") || len(body) != len("begin  end")+len(echo) {
					t.Errorf("%s: got body %q, want the same length", what, body)
				}
				if resp.Header.Get("Content-Encoding") != "" || !strings.Contains(resp.Header.Get("X-Echo"), "*") || !strings.Contains(resp.Trailer.Get("X-Trailer"), "*") {
					t.Errorf("%s: got %v %v, want masked headers and no coding", what, resp.Header, resp.Trailer)
				}
			}
		}
	}
}

// TestUnreadableCodingIsRefused checks that a response which cannot be filtered does not
// pass, and that one to a request without a credential does.
func TestUnreadableCodingIsRefused(t *testing.T) {
	ow := newOpenedWorld(t, `{"host":"api.example.com:443","http":[{"paths":["/open"]}]}`, credentialRule)
	for _, coding := range []string{"br", "zstd", "deflate", "gzip, gzip", "gzip, br", "x"} {
		ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Encoding", coding)
			_, _ = io.WriteString(rw, r.Header.Get("Accept-Encoding"))
		})
		r := request("GET", "/v1", nil)
		r.Header.Set("Accept-Encoding", coding)
		resp, body := ow.send(ow.client("2"), r)
		if resp.StatusCode != 502 || !strings.Contains(ow.log.String(), `"cause":"coding"`) {
			t.Errorf("%s: got %d %q, want 502", coding, resp.StatusCode, body)
		}
		r = request("GET", "/open", nil)
		r.Header.Set("Accept-Encoding", coding)
		if resp, body := ow.send(ow.client("2"), r); resp.StatusCode != 200 || body != coding || resp.Header.Get("Content-Encoding") != coding {
			t.Errorf("%s without a credential: got %d %q %v, want it untouched", coding, resp.StatusCode, body, resp.Header)
		}
	}
}

// TestCredentialForms checks the header and prefix of a rule, basic authentication, and
// that the guest's own header never reaches the host, however it spells its name.
func TestCredentialForms(t *testing.T) {
	const secret = `"secret":"model","key":"token"`
	for name, tt := range map[string]struct{ credential, header, want string }{
		"bearer":    {`{` + secret + `,"header":"Authorization","prefix":"Bearer "}`, "Authorization", "Bearer " + planted},
		"x-api-key": {`{` + secret + `,"header":"x-api-key"}`, "X-Api-Key", planted},
		"basic":     {`{` + secret + `,"header":"Authorization","basicUser":"me"}`, "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+planted))},
	} {
		ow := newOpenedWorld(t, `{"host":"api.example.com:443","credential":`+tt.credential+`}`)
		var got http.Header
		ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
			got = r.Header.Clone()
			fmt.Fprint(rw, r.Header)
		})
		conn, r := ow.dialOpened("api.example.com:443", "api.example.com")
		under := strings.ReplaceAll(tt.header, "-", "_")
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: api.example.com\r\n%s: g1\r\n%s: g2\r\n%s: g3\r\n%s: g4\r\nConnection: %s, Range\r\nRange: bytes=0-3\r\nIf-Range: x\r\n\r\n",
			tt.header, strings.ToUpper(tt.header), strings.ToLower(tt.header), under, tt.header)
		status, body := ow.readResponse(r)
		conn.Close()
		if status != 200 || fmt.Sprint(got[tt.header]) != "["+tt.want+"]" || got.Get("Range")+got.Get("If-Range")+got.Get(under) != got.Get(tt.header)[:len(got.Get(under))] {
			t.Errorf("%s: got %d %v, want only the credential", name, status, got)
		}
		for _, mine := range []string{"g1", "g2", "g3", "g4"} {
			if strings.Contains(fmt.Sprint(got), mine) {
				t.Errorf("%s: the host got %s of the guest: %v", name, mine, got)
			}
		}
		wantNothing(t, name, body)
	}
}

// TestCredentialFollowsTheFile checks that a new value is used on an open connection, and
// that a missing one is refused and says so.
func TestCredentialFollowsTheFile(t *testing.T) {
	ow := newOpenedWorld(t, credentialRule)
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "%x", r.Header.Get("Authorization")[len("Bearer "):][:3])
	})
	c := ow.client("2")
	get := func() (int, string) {
		resp, body := ow.send(c, request("GET", "/", nil))
		return resp.StatusCode, body
	}
	if status, body := get(); status != 200 || body != hex.EncodeToString([]byte("sk-")) {
		t.Fatalf("first value: got %d %q", status, body)
	}
	ow.writeSecrets(t, "new-value-of-the-credential\n")
	ow.eventually("the new value is used", func() bool { _, body := get(); return body == hex.EncodeToString([]byte("new")) })
	ow.writeSecrets(t, "two\nlines")
	ow.eventually("a value that no header can have is refused", func() bool { status, body := get(); return status == 403 && !strings.Contains(body, "lines") })
	ow.writeSecrets(t, planted)
	ow.eventually("the value is used again", func() bool { status, _ := get(); return status == 200 })
	if !strings.Contains(ow.log.String(), `"cause":"credential-missing"`) {
		t.Errorf("log: got %s, want that the credential is missing", ow.log.String())
	}
}

// TestKnownSecretsDoNotLeave checks every place and form, over both versions of HTTP.
func TestKnownSecretsDoNotLeave(t *testing.T) {
	ow := newOpenedWorld(t, `{"host":"api.example.com:443","http":[{"paths":["/pass/**"]}],"passSecrets":["env"]}`, credentialRule)
	got := make(chan string, 1000)
	ow.setHandler(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- fmt.Sprint(r.RequestURI, r.Header, string(body))
	})
	type attempt struct {
		place string
		r     *http.Request
	}
	attempts := func(value string) []attempt {
		header := request("GET", "/v1", nil)
		header.Header.Set("X-Data", "a "+value)
		cookie := request("GET", "/v1", nil)
		cookie.Header.Set("Cookie", "a="+url.QueryEscape(value))
		chunks := request("POST", "/v1", io.MultiReader(strings.NewReader("start "+value[:7]), strings.NewReader(value[7:]+" end")))
		late := request("POST", "/v1", io.MultiReader(bytes.NewReader(make([]byte, 300_000)), strings.NewReader(value)))
		return []attempt{
			{"url", request("GET", "/v1/"+url.PathEscape(value), nil)}, {"url", request("GET", "/v1?q="+url.QueryEscape(value), nil)},
			{"header", header}, {"header", cookie}, {"body", request("POST", "/v1", strings.NewReader(value))}, {"body", chunks}, {"body", late},
		}
	}
	// A header's name loses its case on the way.
	name := request("GET", "/v1", nil)
	name.Header.Set("X-"+known, "1")
	all := []attempt{{"header", name}}
	for _, echo := range echoes(known) {
		all = append(all, attempts(echo)...)
	}
	for _, version := range []string{"1.1", "2"} {
		c := ow.client(version)
		for i, a := range all {
			r := a.r.Clone(t.Context())
			if version == "2" {
				r = nil // bodies are used up: only those without one
				if a.r.Body == nil {
					r = a.r.Clone(t.Context())
				}
			}
			if r == nil {
				continue
			}
			resp, body := ow.send(c, r)
			if resp.StatusCode != 403 {
				t.Errorf("HTTP/%s, attempt %d in the %s: got %d %q, want 403", version, i, a.place, resp.StatusCode, body)
			}
			if strings.Contains(body+fmt.Sprint(resp.Header), known) {
				t.Errorf("attempt %d: the refusal has the value: %q", i, body)
			}
			lines := ow.requestLines()
			if l := lines[len(lines)-1]; l.LeftOut == 0 && (l.Secret != "env" || l.Key != "long" || l.Place != a.place || l.Decision != "deny") {
				t.Errorf("attempt %d: log: got %+v, want env/long in the %s", i, l, a.place)
			}
		}
	}
	for len(got) > 0 {
		if text := <-got; strings.Contains(text, known[8:]) {
			t.Errorf("the host got %q", text)
		}
	}
	wantNothing(t, "log", ow.log.String())
	if strings.Contains(ow.log.String(), known) {
		t.Errorf("log: got the value")
	}
	// A rule may let the values of a Secret pass, and short ones are only reported.
	for path, value := range map[string]string{"/pass/x": known, "/v1/short": short} {
		resp, body := ow.send(ow.client("2"), request("POST", path, strings.NewReader(value)))
		if text := <-got; resp.StatusCode != 200 || !strings.HasSuffix(text, value) {
			t.Errorf("%s: got %d %q, and the host %q, want it to pass", path, resp.StatusCode, body, text)
		}
	}
	ow.eventually("the short one is reported", func() bool {
		lines := ow.requestLines()
		l := lines[len(lines)-1]
		return strings.Contains(fmt.Sprint(lines), "short") && (l.Decision == "allow" || l.LeftOut > 0)
	})
}
