// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// The message names each pull secret that holds no credentials for the registry, and says
// why.
func TestUnusablePullSecrets(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "team/demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("team/demo", "alice:word")
	reg := w.reg.host()
	entry := func(json string) string { return `{"auths":{"` + reg + `":` + json + `}}` }
	for name, tt := range map[string]struct{ content, want string }{
		"Docker Desktop":          {`{"auths":{"` + reg + `":{}},"credsStore":"desktop","currentContext":"desktop-linux"}`, usesHelper},
		"no auths, credsStore":    {`{"credsStore":"osxkeychain"}`, usesHelper},
		"null auths, credsStore":  {`{"auths":null,"credsStore":"wincred"}`, usesHelper},
		"credHelpers":             {`{"credHelpers":{"` + reg + `":"ecr-login"}}`, usesHelper},
		"a helper and others":     {`{"auths":{"quay.io":{"auth":"YTpi"}},"credHelpers":{"` + reg + `":"gcr"}}`, "it has no entry for " + reg},
		"bad base64":              {entry(`{"auth":"hunter2!!"}`), "its entry for " + reg + " " + notBase64},
		"no colon":                {entry(`{"auth":"` + base64.StdEncoding.EncodeToString([]byte("hunter2")) + `"}`), "its entry for " + reg + " " + notBase64},
		"bad base64, by path":     {`{"auths":{"https://` + reg + `/team":{"auth":"%"}}}`, "its entry for " + reg + " " + notBase64},
		"bad base64, .dockercfg":  {`{"` + reg + `":{"auth":"hunter2!!"}}`, "its entry for " + reg + " " + notBase64},
		"auth of another type":    {entry(`{"auth":7}`), "its entry for " + reg + " " + notBase64},
		"an empty entry":          {entry(`{}`), "its entry for " + reg + " " + emptyEntry},
		"a null entry":            {entry(`null`), "its entry for " + reg + " " + emptyEntry},
		"an entry that is text":   {entry(`"hunter2"`), "its entry for " + reg + " " + notEntry},
		"empty auths":             {`{"auths":{}}`, noEntries},
		"an empty object":         {`{}`, noEntries},
		"auths of another type":   {`{"auths":"hunter2"}`, badAuths},
		"another registry":        {`{"auths":{"hunter2.example.com":{"auth":"YTpi"}}}`, "it has no entry for " + reg},
		"another repository":      {`{"auths":{"` + reg + `/hunter2":{"auth":"YTpi"}}}`, "it has no entry for " + reg},
		"not JSON":                {"alice:hunter2", notConfig},
		"a list":                  {`["hunter2"]`, notConfig},
		"nothing":                 {"", notConfig},
		"encoded twice":           {base64.StdEncoding.EncodeToString([]byte(entry(`{"auth":"YTpi"}`))) + "\n", encodedTwice},
		"more than a Secret":      {`{"auths":{},"x":"` + strings.Repeat("x", maxConfigBytes) + `"}`, "it has more than 1 MiB"},
		"another registry's auth": {`{"auths":{"quay.io":{"auth":"!!"}}}`, "it has no entry for " + reg},
	} {
		req := w.request("team/demo:1", "a")
		req.PullSecrets = []host.PullSecret{{Name: "my-cred", Content: []byte(tt.content)}}
		failed := w.wantFailed(req, "no credentials were given for it", "; Secret my-cred: "+tt.want+": create such a Secret with kubectl create secret docker-registry --docker-server="+reg)
		if text := failed.Error(); strings.Contains(text, "hunter2") || strings.Contains(text, "quay.io") {
			t.Errorf("%s: got %q, want nothing of the Secret's content", name, text)
		}
	}
}

// A Secret that helps does not hide what is wrong with the others, and one that is
// refused is named.
func TestRefusedPullSecretsAreNamed(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("demo", "alice:word")
	secret := func(name, userPassword string) host.PullSecret {
		s := secretFor(w.reg.host(), userPassword)
		s.Name = name
		return s
	}
	req := w.request("demo:1", "a")
	req.PullSecrets = []host.PullSecret{secret("first", "alice:old"), {Name: "broken", Content: []byte("x")}}
	w.wantFailed(req, "the credentials for it were refused: check the Secret first in spec.imagePullSecrets; Secret broken: "+notConfig)
	req.PullSecrets = []host.PullSecret{secret("first", "alice:old"), secret("second", "alice:word\n")}
	w.wantFailed(req, "all 2 credentials for it were refused: check the Secrets in spec.imagePullSecrets (first, second); the password in the Secret second in spec.imagePullSecrets begins or ends with white space")
	req.PullSecrets = nil
	for i := range maxProblems + 3 {
		req.PullSecrets = append(req.PullSecrets, host.PullSecret{Name: fmt.Sprint("cred-", i), Content: []byte("{}")})
	}
	w.wantFailed(req, "Secret cred-0: its auths are empty; ", "; and 3 more: create")
	// The failure is remembered, but not for those who use other Secrets.
	other := of("team-b", w.request("demo:1", "b"))
	other.PullSecrets = []host.PullSecret{{Name: "its-own", Content: []byte("{}")}}
	if text := w.wantFailed(other, "Secret its-own: its auths are empty").Error(); strings.Contains(text, "cred-") {
		t.Errorf("got %q, want only the Bottle's own Secrets", text)
	}
	// A corrected Secret is tried at once.
	other.PullSecrets = []host.PullSecret{secret("its-own", "alice:word")}
	w.want(other)
}

// certificateFor returns a certificate that nobody signed, for 127.0.0.1.
func certificateFor(t *testing.T, from, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func storage(t *testing.T, cert *tls.Certificate, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(answer)
	s.Config.ErrorLog = quiet
	if cert == nil {
		s.Start()
	} else {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// A registry redirects blobs to a storage that fails. The message names the storage, and
// gives no advice about the registry that would not help.
func TestFailuresOfStorageHosts(t *testing.T) {
	now := time.Now()
	expired, unknown := certificateFor(t, now.Add(-2*time.Hour), now.Add(-time.Hour)), certificateFor(t, now.Add(-time.Hour), now.Add(time.Hour))
	refuse := withStatus(403, "", "", "<Error><Code>"+strange+"</Code></Error>")
	for name, tt := range map[string]struct {
		to   func(w *world) string // SCHEME://HOST
		want string                // %s is HOST
	}{
		"plain HTTP": {func(*world) string { return "http://" + storage(t, nil, refuse) },
			"redirects the agent to host %s over plain HTTP, which the agent does not use, "},
		"plain HTTP, nothing there": {func(*world) string { return "http://" + closedPort(t) },
			"redirects the agent to host %s over plain HTTP, which the agent does not use, "},
		"plain HTTP in spite of https": {func(*world) string { return "https://" + storage(t, nil, refuse) },
			"host %s, to which registry REG redirects the agent: its answer is not TLS: give it a certificate"},
		"expired": {func(*world) string { return "https://" + storage(t, &expired, refuse) },
			"host %s, to which registry REG redirects the agent: its certificate has expired or is not yet valid: repair its certificate"},
		"unknown authority": {func(*world) string { return "https://" + storage(t, &unknown, refuse) },
			"host %s, to which registry REG redirects the agent: its certificate is signed by an unknown authority: pass the certificate of its CA to the agent with --image-ca"},
		"nothing there": {func(*world) string { return "https://" + closedPort(t) },
			"host %s, to which registry REG redirects the agent: connection refused"},
		"no such name": {func(*world) string { return "https://Storage.Example.invalid" },
			"host storage.example.invalid, to which registry REG redirects the agent: the name cannot be resolved (the connection broke 5 times, last at byte 0 of 1192): check the address that the registry gives for it"},
		"no such name, plain HTTP": {func(*world) string { return "http://storage.invalid:9000" },
			"host storage.invalid:9000, to which registry REG redirects the agent: the name cannot be resolved"},
		"refused": {func(*world) string { return "https://" + newServerThat(t, refuse) },
			"host %s, to which registry REG redirects the agent, answered 403 Forbidden: check the storage of the registry, its clock and the node's clock"},
		"broken": {func(*world) string {
			return "https://" + newServerThat(t, hijacked("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nx"))
		},
			"host %s, to which registry REG redirects the agent: it closed the connection (the connection broke "},
		"not a name": {func(*world) string { return "https://" + strange + "_-.invalid" },
			"host another host, to which registry REG redirects the agent: the name cannot be resolved"},
		"a refused address": {func(*world) string { return "https://169.254.169.254" },
			"registry REG sends the agent to a host whose address 169.254.169.254 may not be used"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			img := newImage(t, "amd64", noise(1, 1000))
			w.reg.push(t, "demo:1", img)
			layer, to := layerOf(t, img), tt.to(w)
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if !layer(r.URL.Path) {
					return false
				}
				http.Redirect(rw, r, to+"/bucket/"+strange+"?sig="+strange, http.StatusTemporaryRedirect)
				return true
			})
			_, at, _ := strings.Cut(to, "://")
			want := strings.ReplaceAll(strings.ReplaceAll(tt.want, "REG", w.reg.host()), "%s", at)
			req := w.request("demo:1", "a")
			req.PullSecrets = []host.PullSecret{secretFor("quay.io", "a:b")}
			text := w.wantFailed(req, want).Error()
			for _, wrong := range []string{"--image-plain-http", "--image-mirror", "Secret", strange, "://"} {
				if strings.Contains(text, wrong) {
					t.Errorf("got %q, want no %q in it", text, wrong)
				}
			}
		})
	}
}

// newServerThat returns the address of a server with a trusted certificate.
func newServerThat(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := newServer(t)
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true })
	return s.host()
}

// A storage without TLS can be allowed by its own name. The registry stays with TLS.
func TestStorageWithoutTLSCanBeAllowed(t *testing.T) {
	plain := newPlainServer(t)
	w := newWorld(t, func(o *Options) { o.PlainHTTP = []string{plain.host()} })
	img := newImage(t, "amd64", "one")
	w.reg.push(t, "demo:1", img)
	plain.push(t, "demo:1", img)
	layer := layerOf(t, img)
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if !layer(r.URL.Path) {
			return false
		}
		http.Redirect(rw, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
}

// The token server is another host than the registry.
func TestFailuresOfTokenServers(t *testing.T) {
	_, port, _ := net.SplitHostPort(closedPort(t))
	for name, tt := range map[string]struct{ at, want string }{
		"nothing there": {"localhost:" + port, "host localhost:" + port + ", the token server of registry REG: connection refused: check that it is running and that the node can reach it"},
		"no such name":  {"auth.invalid", "host auth.invalid, the token server of registry REG: the name cannot be resolved"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(tt.at, "localhost") && !localhostIs127(t) {
				tt.want = "host " + tt.at + ", the token server of registry REG: "
			}
			w := newWorld(t)
			w.reg.setFault(func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("WWW-Authenticate", `Bearer realm="https://`+tt.at+`/token",service="s"`)
				rw.WriteHeader(http.StatusUnauthorized)
				return true
			})
			text := w.wantFailed(w.request("demo:1", "a"), strings.ReplaceAll(tt.want, "REG", w.reg.host())).Error()
			if strings.Contains(text, "--image-plain-http") {
				t.Errorf("got %q, want no advice about the registry", text)
			}
		})
	}
}

// localhostIs127 reports whether localhost is only 127.0.0.1 here.
func localhostIs127(t *testing.T) bool {
	t.Helper()
	addrs, err := net.DefaultResolver.LookupHost(t.Context(), "localhost")
	return err == nil && len(addrs) == 1 && addrs[0] == "127.0.0.1"
}

func TestHostText(t *testing.T) {
	const other = "another host"
	for given, want := range map[string]string{
		"S3.Example.com":                    "s3.example.com",
		"minio:9000":                        "minio:9000",
		"10.0.0.1:443":                      "10.0.0.1:443",
		"[fd00::1]:443":                     "[fd00::1]:443",
		"[fd00::1]":                         "fd00::1",
		"[fe80::1%StrangeWord]:1":           "[fe80::1]:1",
		"a b":                               other,
		"a.example.com:http":                other,
		"a.example.com:0443":                other,
		"a.example.com:99999":               other,
		"-a.example.com":                    other,
		"a..example.com":                    other,
		"ä.example.com":                     other,
		"a\n.example.com":                   other,
		"":                                  other,
		strings.Repeat("a.", 60) + "com":    strings.Repeat("a.", 60) + "com",
		strings.Repeat("a.", 100) + "com":   other,
		strings.Repeat("a", 64) + ".com":    other,
		"see-https://x.example.com":         other,
		"call<script>alert(1)</script>.com": other,
	} {
		if got := hostText(given); got != want {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
	}
}

// A timeout stays one when it is wrapped.
func TestTimeoutsOfHosts(t *testing.T) {
	for _, err := range []error{&partyError{error: os.ErrDeadlineExceeded}, &upgradedError{os.ErrDeadlineExceeded}} {
		text, _ := failureText(&url.Error{Op: "Get", URL: "x", Err: err}, detailAll, otherAdvice)
		if want := "it did not answer in time"; text != want || !(&url.Error{Err: err}).Timeout() {
			t.Errorf("%T: got %q, want %q", err, text, want)
		}
	}
}
