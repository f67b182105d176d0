// SPDX-License-Identifier: Apache-2.0

package guestenv_test

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/guestenv"
)

var bundleIP = netip.MustParseAddr("192.168.44.2")

func literal(name, value string) guestenv.Var { return guestenv.Var{Name: name, Value: value} }

func secret(name, value string) guestenv.Var {
	return guestenv.Var{Name: name, Value: value, Secret: true}
}

// operators returns the operator's variables, with these in addition or instead, in
// order of their names.
func operators(more ...guestenv.Var) []guestenv.Var {
	const proxy, direct = "http://192.168.44.2:8888", "localhost,127.0.0.1,::1,0.0.0.0,192.168.44.2"
	out := slices.Clone(more)
	for _, v := range []guestenv.Var{
		literal("BOTTLE_BUNDLE_IP", "192.168.44.2"),
		literal("HTTPS_PROXY", proxy), literal("HTTP_PROXY", proxy), literal("http_proxy", proxy), literal("https_proxy", proxy),
		literal("NO_PROXY", direct), literal("no_proxy", direct),
		literal("NODE_USE_ENV_PROXY", "1"),
		literal("JAVA_TOOL_OPTIONS", "-Dhttp.proxyHost=192.168.44.2 -Dhttp.proxyPort=8888 -Dhttps.proxyHost=192.168.44.2 -Dhttps.proxyPort=8888 "+
			"-Dhttp.nonProxyHosts=localhost|127.*|[::1]|0.0.0.0|192.168.44.2 -Daether.connector.http.useSystemProperties=true"),
	} {
		if !slices.ContainsFunc(more, func(m guestenv.Var) bool { return m.Name == v.Name }) {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b guestenv.Var) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func TestBuild(t *testing.T) {
	const ca = "/run/bottle-ca/ca.pem"
	trust := []guestenv.Var{
		literal("AWS_CA_BUNDLE", ca), literal("CARGO_HTTP_CAINFO", ca), literal("CURL_CA_BUNDLE", ca), literal("DENO_CERT", ca), literal("GIT_SSL_CAINFO", ca),
		literal("NODE_EXTRA_CA_CERTS", ca), literal("PIP_CERT", ca), literal("REQUESTS_CA_BUNDLE", ca), literal("SSL_CERT_FILE", ca),
		literal("BUNDLE_SSL_CA_CERT", ca), literal("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", ca), literal("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", ca),
		literal("HEX_CACERTS_PATH", ca), literal("CODEX_CA_CERTIFICATE", ca), literal("NIX_SSL_CERT_FILE", ca), literal("YARN_HTTPS_CA_FILE_PATH", ca),
	}
	type row struct {
		caPath string
		user   []guestenv.Var
		want   []guestenv.Var
	}
	own := func(user ...guestenv.Var) row { return row{user: user, want: operators(user...)} }
	tests := map[string]row{
		"operator's own":                     own(),
		"the user's variables are sorted in": own(literal("zed", "z"), secret("API_KEY", "s3cret"), literal("Path", "")),
		"the user wins":                      own(literal("HTTPS_PROXY", "http://127.0.0.1:1"), literal("BOTTLE_BUNDLE_IP", "")),
		"the user wins with a secret":        own(secret("no_proxy", "*")),
		"values are not changed":             own(literal("z", " a=b\n\t\x01\"'\\😀 ")),
		"with a certificate":                 {ca, nil, operators(trust...)},
	}
	// The user wins for each variable, and only for that one.
	for _, v := range operators(trust...) {
		mine := literal(v.Name, "/mine")
		others := slices.DeleteFunc(slices.Clone(trust), func(t guestenv.Var) bool { return t.Name == v.Name })
		tests["the user wins: "+v.Name] = row{ca, []guestenv.Var{mine}, operators(append(others, mine)...)}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := guestenv.Build(bundleIP, tt.caPath, tt.user)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("environment (-want +got):\n%s", d)
			}
		})
	}
}

// TestEarlier checks that every earlier value belongs to a variable that the operator
// still sets, to another value.
func TestEarlier(t *testing.T) {
	now := map[string]string{}
	for _, v := range operators() {
		now[v.Name] = v.Value
	}
	earlier := guestenv.Earlier(bundleIP)
	if got := earlier["NO_PROXY"]; got != "localhost,127.0.0.1,192.168.44.2" {
		t.Errorf("NO_PROXY: got %q, want the value of the releases before", got)
	}
	for name, value := range earlier {
		if now[name] == "" || now[name] == value {
			t.Errorf("%s: got %q now and %q earlier, want two values", name, now[name], value)
		}
	}
}

func TestBuildRejects(t *testing.T) {
	const hidden = "h1dden"
	long := func(n int) string { return hidden + strings.Repeat("x", n-len(hidden)) }
	tests := map[string]struct {
		user guestenv.Var
		want error
	}{
		"empty name":               {literal("", hidden), guestenv.ErrName},
		"name with =":              {literal("A="+hidden, "1"), guestenv.ErrName},
		"name with space":          {literal("A B", hidden), guestenv.ErrName},
		"name with newline":        {literal("A\n", hidden), guestenv.ErrName},
		"name starts with a digit": {literal("1A", hidden), guestenv.ErrName},
		"name with a dash":         {literal("A-B", hidden), guestenv.ErrName},
		"name with an umlaut":      {literal("Ä", hidden), guestenv.ErrName},
		"name with a NUL":          {literal("A\x00", hidden), guestenv.ErrName},
		"long invalid name":        {literal(strings.Repeat("é", 4000), hidden), guestenv.ErrName},
		"NUL in a literal":         {literal("A", hidden+"\x00"), guestenv.ErrNUL},
		"NUL in a secret":          {secret("A", "\x00"+hidden), guestenv.ErrNUL},
		"literal one too long":     {literal("ABC", long(131072-4)), guestenv.ErrTooLong},
		"secret one too long":      {secret("ABC", long(131072-4)), guestenv.ErrTooLong},
		"literal, invalid UTF-8":   {literal("A", hidden+"\xff"), guestenv.ErrNotUTF8},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := guestenv.Build(bundleIP, "", []guestenv.Var{literal("FINE", hidden), tt.user})
			if !errors.Is(err, tt.want) || got != nil {
				t.Fatalf("got %v, %v, want %v", got, err, tt.want)
			}
			var v *guestenv.VarError
			if !errors.As(err, &v) || v.Name != tt.user.Name {
				t.Errorf("variable: got %+v, want %q", v, tt.user.Name)
			}
			if strings.Contains(err.Error(), hidden) || len(err.Error()) > 1000 {
				t.Errorf("error: got %q, want at most 1000 bytes without the value", err)
			}
		})
	}
}

func TestBuildNamesEveryInvalidVariable(t *testing.T) {
	_, err := guestenv.Build(bundleIP, "", []guestenv.Var{literal("1", ""), literal("B", "\x00"), literal("C", ""), literal("C", "")})
	want := []string{`env "1"`, `env "B"`, `env "C": given more than once`}
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("got %v, want an error that contains %s", err, w)
		}
	}
}

func TestBuildErrorIsShort(t *testing.T) {
	var user []guestenv.Var
	for i := range 128 {
		user = append(user, literal(strconv.Itoa(i), ""))
	}
	_, err := guestenv.Build(bundleIP, "", user)
	if err == nil || !strings.HasSuffix(err.Error(), "; and 123 more") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line that ends with the number of omitted errors", err)
	}
}

func TestBuildAccepts(t *testing.T) {
	for name, v := range map[string]guestenv.Var{
		"the longest literal":              literal("ABC", strings.Repeat("x", 131072-5)),
		"the longest secret":               secret("ABC", strings.Repeat("x", 131072-5)),
		"a secret that is not text":        secret("A", "\xff\xfe"),
		"an underscore":                    literal("_", ""),
		"all allowed characters of a name": literal("_azAZ09", ""),
	} {
		if _, err := guestenv.Build(bundleIP, "", []guestenv.Var{v}); err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
	}
}

func TestBuildRequiresIPv4Bundle(t *testing.T) {
	for _, ip := range []netip.Addr{{}, netip.MustParseAddr("fd00::2"), netip.MustParseAddr("::ffff:192.168.44.2")} {
		if got, err := guestenv.Build(ip, "", nil); err == nil {
			t.Errorf("%s: got %v, want an error", ip, got)
		}
	}
}

func TestSplit(t *testing.T) {
	literals, secrets := guestenv.Split([]guestenv.Var{literal("A", "1"), secret("B", "2"), literal("C", "")})
	if d := cmp.Diff(map[string]string{"A": "1", "C": ""}, literals); d != "" {
		t.Errorf("literals (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]string{"B": "2"}, secrets); d != "" {
		t.Errorf("secrets (-want +got):\n%s", d)
	}
}

func TestTrimmedByGuest(t *testing.T) {
	// The white space of Unicode and of Rust's str::trim. Go's unicode.IsSpace
	// must agree with it.
	spaces := []rune{'\t', '\n', '\v', '\f', '\r', ' ', 0x85, 0xa0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005,
		0x2006, 0x2007, 0x2008, 0x2009, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000}
	trimmed := map[rune]bool{}
	for _, r := range spaces {
		trimmed[r] = true
	}
	for r := rune(0); r <= 0x10ffff; r++ {
		if r >= 0xd800 && r < 0xe000 {
			continue // surrogates, which are not characters
		}
		if got := guestenv.TrimmedByGuest("x" + string(r)); got != trimmed[r] {
			t.Errorf("%U at the end: got %v, want %v", r, got, trimmed[r])
		}
		if guestenv.TrimmedByGuest(" " + string(r) + "x") {
			t.Errorf("%U inside: got true, want false", r)
		}
	}
	for value, want := range map[string]bool{"": false, " ": true, "\n": true, "x\x85": false, "x\xa0": false, "\xff": false} {
		if got := guestenv.TrimmedByGuest(value); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}
