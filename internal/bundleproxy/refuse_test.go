// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/internal/egress"
)

// answer is what a guest sees of an answer.
type answer struct {
	reason string // phrase
	header http.Header
	body   string
}

// ask sends raw requests on one connection and returns as many answers.
func (w *world) ask(status int, raw ...string) []answer {
	w.t.Helper()
	conn := w.connect()
	defer conn.Close()
	_, _ = io.WriteString(conn, strings.Join(raw, ""))
	r := bufio.NewReader(conn)
	var out []answer
	for range raw {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			w.t.Fatalf("read answer: %v", err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status {
			w.t.Fatalf("answer: got %s %q, %v, want %d", resp.Status, body, err, status)
		}
		_, reason, _ := strings.Cut(resp.Status, " ")
		out = append(out, answer{reason, resp.Header, string(body)})
	}
	return out
}

// TestRefusalsSayWhyAndWhatToDo checks that each kind of refusal says the host, the port,
// its own cause and what to do, wherever programs look: in the reason phrase of an answer
// to CONNECT, in the headers and in the body.
func TestRefusalsSayWhyAndWhatToDo(t *testing.T) {
	denied := func(t *testing.T) *world {
		return newWorldWith(t, func(o *Options) {
			if err := os.WriteFile(o.RulesPath, []byte(closedFile), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	open := func(t *testing.T) *world {
		return newWorldWith(t, func(o *Options) {
			o.Networks = func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("192.168.44.0/24")}, nil }
		}, "api.example.com", "api.example.com:80", "inside.example.com", "loop.example.com", "gone.example.com", "slow.example.com", "gateway.example.com")
	}
	failing := func(err error) func(t *testing.T) *world {
		return func(t *testing.T) *world {
			return newWorldWith(t, func(o *Options) {
				o.Dial = func(context.Context, netip.AddrPort) (*net.TCPConn, error) {
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
				}
			}, "api.example.com", "api.example.com:80")
		}
	}
	errno := func(e syscall.Errno) error { return os.NewSyscallError("connect", e) }
	const add, noRule = `to allow it, add "%s" to spec.egress.allow of the Bottle`, "no egress rule allows this host and port"
	for name, tt := range map[string]struct {
		world     func(*testing.T) *world
		host      string
		port      int
		status    int
		proxyType string
		why, do   string
	}{
		"no rule":                {open, "new.example.com", 443, 403, "http_request_denied", noRule, fmt.Sprintf(add, "new.example.com:443")},
		"capitals and a dot":     {open, "NEW.example.com.", 443, 403, "http_request_denied", noRule, fmt.Sprintf(add, "new.example.com:443")},
		"another port":           {open, "api.example.com", 8443, 403, "http_request_denied", noRule + ": the host is allowed on another port", fmt.Sprintf(add, "api.example.com:8443")},
		"an address":             {open, "203.0.113.5", 22, 403, "http_request_denied", noRule, fmt.Sprintf(add, "203.0.113.5:22")},
		"an IPv6 address":        {open, "[2001:db8::5]", 22, 403, "http_request_denied", noRule, fmt.Sprintf(add, "[2001:db8::5]:22")},
		"no rule can name it":    {open, "127.1", 443, 403, "http_request_denied", noRule, ""},
		"a wildcard":             {open, "*.example.com", 443, 403, "http_request_denied", noRule, ""},
		"too long to show":       {open, strings.Repeat("a.", 40) + "com", 443, 403, "http_request_denied", noRule, ""},
		"a private address":      {open, "inside.example.com", 443, 403, "destination_ip_prohibited", "address 10.0.0.5 is private, which a rule for a name does not open", fmt.Sprintf(add, "10.0.0.5:443")},
		"loopback":               {open, "loop.example.com", 443, 403, "destination_ip_prohibited", "address 127.0.0.1 can never be reached: it is loopback", "no rule of the Bottle opens it"},
		"metadata":               {open, "169.254.169.254", 80, 403, "destination_ip_prohibited", "address 169.254.169.254 can never be reached: it is link-local, where cloud metadata lives", "no rule of the Bottle opens it"},
		"the bundle's network":   {open, "gateway.example.com", 443, 403, "destination_ip_prohibited", "address 192.168.44.1 can never be reached: it is in the bundle's own network", "no rule of the Bottle opens it"},
		"the node":               {denied, "198.51.100.9", 10250, 403, "http_request_denied", "address 198.51.100.9 is closed by the platform: it is an address of this node", "no rule of the Bottle opens it"},
		"the subnet pool":        {denied, "192.168.45.2", 8888, 403, "http_request_denied", "address 192.168.45.2 is closed by the platform: it is in the subnet pool", "no rule of the Bottle opens it"},
		"the flag":               {denied, "10.96.0.1", 443, 403, "http_request_denied", "address 10.96.0.1 is closed by the platform: it is in a network that --egress-closed names", "ask an administrator"},
		"the ceiling":            {denied, "evil.example.com", 443, 403, "http_request_denied", "this destination is closed by the platform: it is not within --egress-ceiling", "ask an administrator"},
		"no such name":           {open, "gone.example.com", 443, 502, "dns_error", "the name does not resolve: the bundle's resolver knows no address for it", "check its spelling"},
		"no resolver":            {open, "slow.example.com", 443, 502, "dns_error", "the name does not resolve: the bundle's resolver does not answer", ""},
		"the host refuses":       {failing(errno(syscall.ECONNREFUSED)), "api.example.com", 443, 502, "connection_refused", "the host refuses connections on this port", ""},
		"the host is silent":     {failing(os.ErrDeadlineExceeded), "api.example.com", 443, 502, "connection_timeout", "the host does not answer in time", ""},
		"no route":               {failing(errno(syscall.EHOSTUNREACH)), "api.example.com", 443, 502, "destination_ip_unroutable", "the host cannot be reached: the node has no route to it", ""},
		"no network":             {failing(errno(syscall.ENETUNREACH)), "api.example.com", 443, 502, "destination_ip_unroutable", "the host cannot be reached: the node has no route to it", ""},
		"unreachable otherwise":  {failing(errno(syscall.EPERM)), "api.example.com", 443, 502, "destination_ip_unroutable", "the host cannot be reached", ""},
		"plain HTTP, refuses":    {failing(errno(syscall.ECONNREFUSED)), "api.example.com", 80, 502, "connection_refused", "the host refuses connections on this port", ""},
		"plain HTTP, https":      {open, "api.example.com", 0, 403, "http_request_error", "only http is forwarded; use CONNECT for anything else", ""},
		"plain HTTP, no rule":    {open, "new.example.com", 80, 403, "http_request_denied", noRule, fmt.Sprintf(add, "new.example.com:80")},
		"plain HTTP, other port": {open, "api.example.com", 8080, 403, "http_request_denied", noRule + ": the host is allowed on another port", fmt.Sprintf(add, "api.example.com:8080")},
	} {
		t.Run(name, func(t *testing.T) {
			w := tt.world(t)
			target := fmt.Sprintf("%s:%d", tt.host, tt.port)
			raw, isConnect := connect(target), true
			if strings.HasPrefix(name, "plain HTTP") {
				raw, isConnect = get("http://"+target+"/secret?path"), false
			}
			if strings.HasSuffix(name, ", https") {
				raw = get("https://" + tt.host + "/secret?path")
			}
			got := w.ask(tt.status, raw)[0]
			shown := strings.Trim(tt.host, "[]")
			shown = shown[:min(len(shown), 64)]
			text := fmt.Sprintf("%s, port %d: %s", shown, tt.port, tt.why)
			if tt.port == 0 {
				text = shown + ": " + tt.why
			}
			usual := http.StatusText(tt.status)
			if tt.do != "" && !strings.Contains(got.body, "; "+tt.do) || tt.do == "" && strings.Contains(got.body, " add ") {
				t.Errorf("body: got %q, want what to do: %q", got.body, tt.do)
			}
			if !strings.HasPrefix(got.body, "bundle: "+text) || strings.Count(got.body, "\n") != 1 {
				t.Errorf("body: got %q, want one line that begins with %q", got.body, "bundle: "+text)
			}
			line := strings.TrimSuffix(strings.TrimPrefix(got.body, "bundle: "), "\n")
			if want := fmt.Sprintf(`bottle-bundle; error=%s; details="%s"`, tt.proxyType, strings.ReplaceAll(line, `"`, `\"`)); got.header.Get("Proxy-Status") != want {
				t.Errorf("Proxy-Status: got %q, want %q", got.header.Get("Proxy-Status"), want)
			}
			wantDenied, wantReason := "", usual
			if tt.status == 403 {
				wantDenied = line
			}
			if isConnect {
				wantReason += ": " + line
			}
			if got.header.Get("X-Bottle-Denied") != wantDenied || got.reason != wantReason {
				t.Errorf("X-Bottle-Denied and reason phrase: got %q and %q, want %q and %q", got.header.Get("X-Bottle-Denied"), got.reason, wantDenied, wantReason)
			}
			if strings.Contains(w.log.String(), `"add `) || !strings.Contains(w.log.String(), `"cause":"`) {
				t.Errorf("log: got %s, want the cause", w.log.String())
			}
		})
	}
}

// TestRefusalShowsNothingUnsafe checks that whatever a guest writes as a host is shown as
// bounded printable ASCII, and that a refusal does not change the answer to the next
// request.
func TestRefusalShowsNothingUnsafe(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	for _, host := range []string{`a"b\c`, "evil%0d%0aX-Injected:%201", "%e2%80%ae.example.com", "b%c3%bccher.example", strings.Repeat("x", 3000)} {
		raw := "CONNECT " + host + ":443 HTTP/1.1\r\nHost: x\r\n\r\n"
		if strings.Contains(host, "%0d") {
			raw = "GET http://" + host + ":443/ HTTP/1.1\r\nHost: x\r\n\r\n"
		}
		conn := w.connect()
		_, _ = io.WriteString(conn, raw+get("http://api.example.com/"))
		r := bufio.NewReader(conn)
		for i, want := range []int{403, 200} {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%q, answer %d: %v", host, i, err)
			}
			body, _ := io.ReadAll(resp.Body)
			if want == 403 && resp.StatusCode == 400 {
				conn.Close() // net/http refuses such a request itself
				break
			}
			if resp.StatusCode != want || want == 200 && resp.Status != "200 OK" {
				t.Fatalf("%q, answer %d: got %s %q, want %d", host, i, resp.Status, body, want)
			}
			text := resp.Status + resp.Header.Get("Proxy-Status") + resp.Header.Get("X-Bottle-Denied") + strings.TrimSuffix(string(body), "\n")
			if len(text) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) || resp.Header.Get("X-Injected") != "" {
				t.Errorf("%q, answer %d: got %q %v, want bounded printable ASCII", host, i, text, resp.Header)
			}
		}
		conn.Close()
	}
}

// TestHostCannotClaimARefusal checks that a host's answer never has the headers of the
// bundle's, and that it keeps those of other proxies.
func TestHostCannotClaimARefusal(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	for status, want := range map[string]string{
		`bottle-bundle; error=http_request_denied; details="add evil.example.com"`: "",
		`"Bottle-Bundle"; error=http_request_denied`:                               "",
		`cdn, bottle-bundle; error=http_request_denied`:                            "",
		`cdn; error=connection_timeout`:                                            `cdn; error=connection_timeout`,
	} {
		w.setHandler(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X-Bottle-Denied", "add evil.example.com")
			rw.Header().Set("Proxy-Status", status)
		})
		got := w.ask(200, get("http://api.example.com/"))[0].header
		if got.Get("X-Bottle-Denied") != "" || got.Get("Proxy-Status") != want {
			t.Errorf("%s: got X-Bottle-Denied %q and Proxy-Status %q, want none and %q", status, got.Get("X-Bottle-Denied"), got.Get("Proxy-Status"), want)
		}
	}
}

// TestBadAnswers checks that a host which accepts the connection and gives no proper answer
// is reported with a cause, to the guest and in the log.
func TestBadAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":             "",
		"another protocol":    "SSH-2.0-x\r\n",
		"a bad length":        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
		"an unwanted upgrade": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "api.example.com:80")
			w.serveRaw(func(conn net.Conn) { _, _ = io.WriteString(conn, answer) })
			const want = "bundle: api.example.com, port 80: the host does not answer properly\n"
			if got := w.ask(502, get("http://api.example.com/"))[0]; got.body != want {
				t.Errorf("body: got %q, want %q", got.body, want)
			}
			if got := w.log.String(); !strings.Contains(got, `"decision":"fail"`) || !strings.Contains(got, `"cause":"bad-answer"`) {
				t.Errorf("log: got %s, want the failure", got)
			}
		})
	}
}

// TestRefusedConnectsOnOneConnection checks that each answer has its own text.
func TestRefusedConnectsOnOneConnection(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	var raw []string
	for i := range 5 {
		raw = append(raw, connect(fmt.Sprintf("h%d.example.com:443", i)))
	}
	for i, got := range w.ask(403, raw...) {
		want := fmt.Sprintf("h%d.example.com, port 443", i)
		if !strings.Contains(got.reason, want) || !strings.Contains(got.body, want) {
			t.Errorf("answer %d: got %q and %q, want %s in both", i, got.reason, got.body, want)
		}
	}
}

// TestProxyErrorOfAnswersOfOpenedHosts: these are failures of the host, and not denials.
func TestProxyErrorOfAnswersOfOpenedHosts(t *testing.T) {
	for cause, want := range map[egress.Cause]string{
		egress.CauseUpstreamCertificate: "tls_certificate_error",
		egress.CauseCoding:              "http_response_content_coding",
		egress.CauseMethodPath:          "http_request_denied",
	} {
		if got := refusalHeader(decision{refusal: egress.Refusal{Cause: cause}}, "x").Get(statusHeader); !strings.Contains(got, "error="+want+";") {
			t.Errorf("%s: got %q, want the error %s", cause, got, want)
		}
	}
}
