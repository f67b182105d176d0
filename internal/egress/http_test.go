// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/httppath"
)

// opens returns a rule for the requests to a host with one of these paths, or for all.
func opens(t *testing.T, host string, paths ...string) egress.HTTPRule {
	t.Helper()
	h, err := egress.Parse(host)
	if err != nil {
		t.Fatal(err)
	}
	r := egress.HTTPRule{Host: h}
	for _, text := range paths {
		p, err := httppath.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		r.HTTP = append(r.HTTP, egress.HTTPMatch{Methods: []string{"GET"}, Paths: []httppath.Pattern{p}})
	}
	return r
}

func with(r egress.HTTPRule, secret string, pass ...string) egress.HTTPRule {
	if secret != "" {
		r.Credential = &egress.Credential{Secret: secret, Key: "token", Header: "Authorization", Prefix: "Bearer "}
	}
	r.PassSecrets = pass
	return r
}

// words returns the rules of a set for a host in a form to compare.
func words(s egress.Set, host string) []string {
	out := []string{}
	for _, r := range s.HTTPRules(host, 443) {
		out = append(out, word(r))
	}
	return out
}

func word(r egress.HTTPRule) string {
	text := r.Host.String()
	for _, m := range r.HTTP {
		text += fmt.Sprint(m.Methods, m.Paths)
	}
	if r.Credential != nil {
		text += " " + r.Credential.String()
	}
	return text + fmt.Sprint(r.PassSecrets)
}

func TestOpenedHosts(t *testing.T) {
	wild, exact, address := opens(t, "*.example.com"), opens(t, "api.example.com", "/v1/**"), opens(t, "203.0.113.7")
	s := set(t, "api.example.com", "tunnel.example.org", "203.0.113.0/24").WithHTTP(wild, exact, address)
	for host, want := range map[string][]string{
		"api.example.com":      {word(exact)}, // and not the wildcard's
		"API.example.com.":     {word(exact)},
		"other.example.com":    {word(wild)},
		"a.b.example.com":      {word(wild)},
		"203.0.113.7":          {word(address)},
		"[::ffff:203.0.113.7]": {word(address)},
		"example.com":          nil,
		"tunnel.example.org":   nil,
		"203.0.113.8":          nil,
		"":                     nil,
	} {
		if got := s.Opens(host, 443); got != (want != nil) {
			t.Errorf("%q: got opened %v, want %v", host, got, want != nil)
		}
		if s.Opens(host, 80) {
			t.Errorf("%q: opened on another port", host)
		}
		if d := cmp.Diff(append([]string{}, want...), words(s, host)); d != "" {
			t.Errorf("%q: rules (-want +got):\n%s", host, d)
		}
	}
	if _, ok := s.Match("other.example.com", 443); !ok {
		t.Error("other.example.com: want it allowed, because a rule names it")
	}
	if (egress.Set{}).Opens("a.example.com", 443) || !s.Without("x").Opens("api.example.com", 443) {
		t.Error("no rules open nothing, and Without keeps what is opened")
	}
	closed := set(t, "api.example.com").WithOpened(opens(t, "api.example.com").Host)
	if !closed.Opens("api.example.com", 443) || len(closed.HTTPRules("api.example.com", 443)) != 0 {
		t.Error("a host without rules: want it opened, and every request refused")
	}
	if !exact.Match("GET", "/v1/x") || exact.Match("POST", "/v1/x") || exact.Match("GET", "/v2") || !wild.Match("ANY", "/") {
		t.Error("a request must match a method and a path of one entry")
	}
}

// The intersection gives no request more than both sets do, and a host that is opened in
// one of them is not tunnelled.
func TestIntersectOfOpenedHosts(t *testing.T) {
	const host = "api.example.com"
	all, get := opens(t, host), opens(t, host, "/public/**")
	tests := map[string]struct {
		before, after []egress.HTTPRule
		want          []egress.HTTPRule
	}{
		"the same":                              {[]egress.HTTPRule{get, all}, []egress.HTTPRule{get, all}, []egress.HTTPRule{get, all}},
		"one falls away":                        {[]egress.HTTPRule{get, all}, []egress.HTTPRule{get}, []egress.HTTPRule{get}},
		"one is added":                          {[]egress.HTTPRule{get}, []egress.HTTPRule{get, all}, []egress.HTTPRule{get}},
		"another order":                         {[]egress.HTTPRule{get, with(all, "a")}, []egress.HTTPRule{with(all, "a"), get}, []egress.HTTPRule{with(all, "a"), get}},
		"another credential":                    {[]egress.HTTPRule{with(all, "a")}, []egress.HTTPRule{with(all, "b")}, nil},
		"without the credential":                {[]egress.HTTPRule{with(all, "a")}, []egress.HTTPRule{all}, nil},
		"a rule before it falls away":           {[]egress.HTTPRule{get, with(all, "a")}, []egress.HTTPRule{with(all, "a")}, nil},
		"a rule before it is added":             {[]egress.HTTPRule{with(all, "a")}, []egress.HTTPRule{get, with(all, "a")}, nil},
		"a rule before it with its credential":  {[]egress.HTTPRule{with(get, "a"), with(all, "a")}, []egress.HTTPRule{with(all, "a")}, []egress.HTTPRule{with(all, "a")}},
		"a rule before it that passed less":     {[]egress.HTTPRule{get, with(all, "", "s")}, []egress.HTTPRule{with(all, "", "s")}, nil},
		"a rule of another host before it":      {[]egress.HTTPRule{opens(t, "other.example.com"), with(all, "a")}, []egress.HTTPRule{with(all, "a")}, []egress.HTTPRule{with(all, "a")}},
		"tunnelled before":                      {nil, []egress.HTTPRule{all}, nil},
		"tunnelled afterwards":                  {[]egress.HTTPRule{all}, nil, nil},
		"a wildcard before, the host after":     {[]egress.HTTPRule{opens(t, "*.example.com")}, []egress.HTTPRule{all}, nil},
		"the wildcard stays, the host is gone":  {[]egress.HTTPRule{get, opens(t, "*.example.com")}, []egress.HTTPRule{opens(t, "*.example.com")}, nil},
		"a rule that falls with an earlier one": {[]egress.HTTPRule{get, with(get, "a"), with(all, "b")}, []egress.HTTPRule{with(get, "a"), with(all, "b")}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := set(t, host).WithHTTP(tt.before...).Intersect(set(t, host).WithHTTP(tt.after...))
			if _, ok := got.Match(host, 443); !ok || !got.Opens(host, 443) {
				t.Error("want the host allowed and opened")
			}
			want := []string{}
			for _, r := range tt.want {
				want = append(want, word(r))
			}
			if d := cmp.Diff(want, words(got, host)); d != "" {
				t.Errorf("rules (-want +got):\n%s", d)
			}
		})
	}
}

// A ceiling keeps the rules of what it leaves open, and opens nothing that was to be opened
// by a tunnel.
func TestLimitsOfOpenedHosts(t *testing.T) {
	ceiling := set(t, "api.example.com")
	limits := egress.Limits{Ceiling: &ceiling}
	asked := egress.NewSet().WithHTTP(opens(t, "api.example.com", "/v1"), opens(t, "evil.test"))
	got := limits.Apply(asked, asked)
	if d := cmp.Diff([]string{"api.example.com:443"}, texts(got)); d != "" {
		t.Errorf("allowed (-want +got):\n%s", d)
	}
	if !got.Opens("api.example.com", 443) || len(got.HTTPRules("api.example.com", 443)) != 1 {
		t.Error("api.example.com: want it opened, with its rule")
	}
	if err := got.Refusal("evil.test", 443); egress.ClosedReason(err) != egress.ByCeiling {
		t.Errorf("evil.test: got %v, want it closed by the ceiling", err)
	}
}

func TestFileOfOpenedHosts(t *testing.T) {
	s := set(t, "tunnel.example.org").WithHTTP(with(opens(t, "api.example.com", "/v1/**", "/a%20b"), "api", "db"), opens(t, "*.example.com"))
	s = s.WithOpened(opens(t, "closed.test").Host)
	data, err := egress.EncodeFile(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":2,"allow":["*.example.com:443","api.example.com:443","tunnel.example.org:443"],` +
		`"http":[{"host":"api.example.com:443","http":[{"methods":["GET"],"paths":["/v1/**"]},{"methods":["GET"],"paths":["/a%20b"]}],` +
		`"credential":{"secret":"api","key":"token","header":"Authorization","prefix":"Bearer "},"passSecrets":["db"]},{"host":"*.example.com:443"}],` +
		`"opened":["*.example.com:443","api.example.com:443","closed.test:443"]}` + "\n"
	if string(data) != want {
		t.Errorf("got  %swant %s", data, want)
	}
	again, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"api.example.com", "x.example.com", "closed.test", "tunnel.example.org"} {
		if d := cmp.Diff(words(s, host), words(again, host)); d != "" || again.Opens(host, 443) != s.Opens(host, 443) {
			t.Errorf("%s, read back (-want +got):\n%s", host, d)
		}
	}
	if _, ok := again.Match("closed.test", 443); ok {
		t.Error("an opened host that is not allowed: got it allowed")
	}
	for name, text := range map[string]string{
		"a host that is not opened": `{"version":2,"allow":["a.example"],"http":[{"host":"a.example"}]}`,
		"a bad path":                `{"version":2,"allow":["a.example"],"opened":["a.example"],"http":[{"host":"a.example","http":[{"paths":["/../x"]}]}]}`,
		"a bad method":              `{"version":2,"allow":["a.example"],"opened":["a.example"],"http":[{"host":"a.example","http":[{"methods":["get"]}]}]}`,
		"a bad header":              `{"version":2,"allow":["a.example"],"opened":["a.example"],"http":[{"host":"a.example","credential":{"secret":"s","key":"k","header":"Host"}}]}`,
		"no Secret":                 `{"version":2,"allow":["a.example"],"opened":["a.example"],"http":[{"host":"a.example","credential":{"header":"X-Key"}}]}`,
		"a network":                 `{"version":2,"allow":[],"opened":["10.0.0.0/8"],"http":[{"host":"10.0.0.0/8"}]}`,
		"a bad opened host":         `{"version":2,"allow":["a.example"],"opened":["https://a.example"]}`,
	} {
		if got, err := egress.DecodeFile(strings.NewReader(text)); err == nil || len(got.Rules()) > 0 {
			t.Errorf("%s: got %v, %v, want an error and nothing allowed", name, got.Rules(), err)
		}
	}
}

// FuzzIntersectHTTP checks on random rules that a request that the intersection lets through
// is let through by both sets, and that it gets a credential or lets a Secret pass only if
// one of them says so.
func FuzzIntersectHTTP(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, []byte{3, 2, 1})
	f.Add([]byte{5, 9, 13}, []byte{9, 13})
	f.Fuzz(func(t *testing.T, before, after []byte) {
		hosts := []string{"*.example.com", "api.example.com"}
		rules := func(from []byte) (out []egress.HTTPRule) {
			for _, b := range from[:min(len(from), 12)] {
				r := opens(t, hosts[b&1])
				if b&2 != 0 {
					r = opens(t, hosts[b&1], "/public/**")
				}
				pass := []string{}
				if b&4 != 0 {
					pass = append(pass, "db")
				}
				out = append(out, with(r, []string{"", "a", "b", ""}[b>>3&3], pass...))
			}
			return out
		}
		one, other := set(t, hosts...).WithHTTP(rules(before)...), set(t, hosts...).WithHTTP(rules(after)...)
		both := one.Intersect(other)
		data, err := egress.EncodeFile(both)
		if err != nil {
			t.Fatal(err)
		}
		if both, err = egress.DecodeFile(bytes.NewReader(data)); err != nil {
			t.Fatalf("%v in %s", err, data)
		}
		for _, host := range []string{"api.example.com", "x.example.com"} {
			if (one.Opens(host, 443) || other.Opens(host, 443)) && !both.Opens(host, 443) {
				t.Fatalf("%s: tunnelled", host)
			}
			for _, path := range []string{"/", "/public/x"} {
				got := decided(both, host, path)
				if got == nil {
					continue
				}
				a, b := decided(one, host, path), decided(other, host, path)
				if one.Opens(host, 443) && a == nil || other.Opens(host, 443) && b == nil || a == nil && b == nil {
					t.Fatalf("%s%s: let through by %s, want it refused", host, path, word(*got))
				}
				if !gives(a, got) && !gives(b, got) {
					t.Fatalf("%s%s: got %s, which neither set gives", host, path, word(*got))
				}
			}
		}
	})
}

func decided(s egress.Set, host, path string) *egress.HTTPRule {
	rules := s.HTTPRules(host, 443)
	if i := slices.IndexFunc(rules, func(r egress.HTTPRule) bool { return r.Match("GET", path) }); i >= 0 {
		return &rules[i]
	}
	return nil
}

// gives reports whether a rule gives a request at least what another one does.
func gives(r, other *egress.HTTPRule) bool {
	if r == nil {
		return false
	}
	same := other.Credential == nil || r.Credential != nil && *r.Credential == *other.Credential
	return same && (len(other.PassSecrets) == 0 || len(r.PassSecrets) > 0)
}
