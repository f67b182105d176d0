// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

// rule returns a rule with these paths.
func pathRule(paths ...v1alpha1.HTTPPath) v1alpha1.HTTPRule {
	return v1alpha1.HTTPRule{Host: "api.example.com", HTTP: []v1alpha1.HTTPMatch{{Paths: paths}}}
}

func methodRule(methods ...v1alpha1.HTTPMethod) v1alpha1.HTTPRule {
	return v1alpha1.HTTPRule{Host: "api.example.com", HTTP: []v1alpha1.HTTPMatch{{Methods: methods}}}
}

// credentialRule returns a rule whose credential is the key token of the Secret api, after
// the change.
func credentialRule(change func(*v1alpha1.Credential)) v1alpha1.HTTPRule {
	c := &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: "api", Key: "token"}}
	if change != nil {
		change(c)
	}
	return v1alpha1.HTTPRule{Host: "api.example.com", Credential: c}
}

func headerRule(header string) v1alpha1.HTTPRule {
	return credentialRule(func(c *v1alpha1.Credential) { c.Header = &header })
}

func credentialEnvRule(secret, env string) v1alpha1.HTTPRule {
	return credentialRule(func(c *v1alpha1.Credential) { c.SecretKeyRef.Name, c.Env = secret, &env })
}

func passRule(n int) v1alpha1.HTTPRule {
	r := v1alpha1.HTTPRule{Host: "api.example.com"}
	for i := range n {
		r.PassSecrets = append(r.PassSecrets, v1alpha1.LocalObjectReference{Name: fmt.Sprintf("s%d", i)})
	}
	return r
}

// manyRules returns as many rules as there may be, each with as many entries as there may
// be, of which each has as many methods and paths as there may be.
func manyRules() []v1alpha1.HTTPRule {
	var match v1alpha1.HTTPMatch
	for i := range 32 {
		if i < 16 {
			match.Methods = append(match.Methods, v1alpha1.HTTPMethod("M"+strings.Repeat("X", i)))
		}
		match.Paths = append(match.Paths, v1alpha1.HTTPPath(fmt.Sprintf("/%d", i)))
	}
	var rules []v1alpha1.HTTPRule
	for i := range 64 {
		r := credentialEnvRule(strings.Repeat("s", 253), fmt.Sprintf("V%d", i))
		r.Host = v1alpha1.EgressRule(fmt.Sprintf("%d.example.com", i))
		for range 16 {
			r.HTTP = append(r.HTTP, match)
		}
		r.PassSecrets = passRule(16).PassSecrets
		rules = append(rules, r)
	}
	return rules
}

// longRules returns rules with long words, about as many as fit into an object.
func longRules() []v1alpha1.HTTPRule {
	var rules []v1alpha1.HTTPRule
	for i := range 64 {
		r := pathRule()
		for j := range 32 {
			r.HTTP[0].Paths = append(r.HTTP[0].Paths, v1alpha1.HTTPPath(fmt.Sprintf("/%0255d", 100*i+j)))
		}
		r.HTTP[0].Methods = []v1alpha1.HTTPMethod{v1alpha1.HTTPMethod(strings.Repeat("M", 32))}
		r.Host = v1alpha1.EgressRule(fmt.Sprintf("%s.%s.%02d.example", strings.Repeat("a", 63), strings.Repeat("b", 63), i))
		rules = append(rules, r)
	}
	return rules
}

// Accepted rules are returned byte for byte.
func TestRulesAccepted(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	host := func(h v1alpha1.EgressRule) []v1alpha1.HTTPRule { return []v1alpha1.HTTPRule{{Host: h}} }
	one := func(r v1alpha1.HTTPRule) []v1alpha1.HTTPRule { return []v1alpha1.HTTPRule{r} }
	tests := map[string][]v1alpha1.HTTPRule{
		"host":                       host("api.example.com"),
		"host with a port":           host("api.example.com:8443"),
		"subdomains":                 host("*.example.com"),
		"IPv4":                       host("203.0.113.7:80"),
		"IPv4 as a CIDR":             host("203.0.113.7/32:80"),
		"IPv6":                       host("2001:db8::1"),
		"IPv6 with a port":           host("[2001:db8::1]:8443"),
		"IPv6 as a CIDR":             host("[2001:db8::1/128]:8443"),
		"paths":                      one(pathRule("/", "/v1/messages", "/v1/**", "/*/x-*", "/%7Bid%7D", "/a:b@c;d=1,e&f+g!")),
		"path of 256 characters":     one(pathRule(v1alpha1.HTTPPath("/" + strings.Repeat("a", 255)))),
		"methods":                    one(methodRule("GET", "POST", "M-SEARCH", "VERSION_CONTROL")),
		"credential":                 one(credentialRule(nil)),
		"x-api-key":                  one(headerRule("x-api-key")),
		"Cookie":                     one(headerRule("Cookie")),
		"a header of any characters": one(headerRule("!#$%&'*+-.^_`|~Az09")),
		"empty prefix":               one(credentialRule(func(c *v1alpha1.Credential) { c.Prefix = ptr.To("") })),
		"prefix":                     one(credentialRule(func(c *v1alpha1.Credential) { c.Prefix = ptr.To("token ") })),
		"basic user":                 one(credentialRule(func(c *v1alpha1.Credential) { c.BasicUser = ptr.To("x-access-token") })),
		"the same host twice":        {credentialRule(nil), pathRule("/public/**")},
		"one credential, two rules":  {credentialEnvRule("api", "API_KEY"), credentialEnvRule("api", "API_KEY")},
		"two credentials":            {credentialEnvRule("api", "API_KEY"), credentialEnvRule("other", "OTHER_KEY")},
		"Secrets that may pass":      one(passRule(16)),
		"as many as possible":        manyRules(),
		"as long as possible":        longRules(),
	}
	for name, rules := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := builders.MakeBottle("a").Namespace(ns).Rules(rules...).Obj()
			if err := c.Create(t.Context(), b, client.DryRunAll); err != nil {
				t.Fatalf("got %v, want it accepted", err)
			}
			if diff := cmp.Diff(rules, b.Spec.Egress.Rules); diff != "" {
				t.Errorf("the rules changed (-sent +got):\n%s", diff)
			}
		})
	}
}

// Every refusal of a rule names the field and says what to do.
func TestRulesRefused(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	type refusal struct {
		bottle      *builders.Bottle
		field, rule string
	}
	one := func(r v1alpha1.HTTPRule, field, rule string) refusal {
		return refusal{builders.MakeBottle("a").Rules(r), "spec.egress.rules[0]" + field, rule}
	}
	host := func(h v1alpha1.EgressRule, rule string) refusal {
		return one(v1alpha1.HTTPRule{Host: h}, ".host", rule)
	}
	path := func(p v1alpha1.HTTPPath, rule string) refusal { return one(pathRule(p), ".http[0].paths[0]", rule) }
	header := func(h, rule string) refusal { return one(headerRule(h), ".credential.header", rule) }
	credential := func(field, rule string, change func(*v1alpha1.Credential)) refusal {
		return one(credentialRule(change), ".credential"+field, rule)
	}
	const (
		single    = "host must be a host name or a single address"
		printable = "a path must be printable ASCII without spaces"
		noQuery   = "a path must not contain '?' or '#'"
		carries   = "header must be one that carries a credential"
		oneHeader = "header must be the name of one header"
		basic     = "basicUser excludes header and prefix"
		upper     = "a method must be in upper case"
		variable  = "env must be letters, digits and '_'"
	)
	foreign := builders.MakeBottle("a").Rules(v1alpha1.HTTPRule{Host: "api.example.com"})
	foreign.Spec.Bundle = &v1alpha1.Bundle{Image: ptr.To("registry.example/proxy:1")}
	tests := map[string]refusal{
		"entry that names nothing":   {withHTTP(make([]v1alpha1.HTTPMatch, 1)), "spec.egress.rules[0].http[0]", "an entry of http must have methods or paths"},
		"no host":                    one(v1alpha1.HTTPRule{}, ".host", ""),
		"URL":                        host("https://api.example.com/v1", "a rule must be HOST[:PORT]"),
		"localhost":                  host("localhost", "localhost can never be allowed"),
		"network":                    host("203.0.113.0/24", single),
		"network with a port":        host("203.0.113.0/31:443", single),
		"everything":                 host("0.0.0.0/0", single),
		"IPv6 network":               host("2001:db8::/32", single),
		"IPv6 network with a port":   host("[2001:db8::/127]:443", single),
		"IPv6 network of 32 bits":    host("[2001:db8::/32]:443", single),
		"path without a slash":       path("v1/messages", "a path must begin with '/'"),
		"wildcard without a slash":   path("**", "a path must begin with '/'"),
		"path with a query":          path("/v1?x=1", noQuery),
		"path with three stars":      path("/v1/***", "a path must not contain '//' or '***'"),
		"path with an empty segment": path("/v1//x", "a path must not contain '//' or '***'"),
		"path with a fragment":       path("/v1#x", noQuery),
		"path with a space":          path("/a b", printable),
		"path with a newline":        path("/a\n", printable),
		"path that is not ASCII":     path("/é", printable),
		"path of 257 characters":     path(v1alpha1.HTTPPath("/"+strings.Repeat("a", 256)), "may not be more than 256"),
		"method in lower case":       one(methodRule("get"), ".http[0].methods[0]", upper),
		"wildcard method":            one(methodRule("*"), ".http[0].methods[0]", upper),
		"two methods in one":         one(methodRule("GET,POST"), ".http[0].methods[0]", upper),
		"header with its value":      header("Authorization: Bearer", oneHeader),
		"header with a newline":      header("X-Key\n", oneHeader),
		"empty header":               header("", "at least 1 chars"),
		"Host":                       header("Host", carries),
		"Content-Length":             header("content-length", carries),
		"Transfer-Encoding":          header("Transfer-Encoding", carries),
		"Connection":                 header("CONNECTION", carries),
		"Sec-WebSocket-Key":          header("Sec-WebSocket-Key", carries),
		"prefix with a newline":      credential(".prefix", "prefix must be printable ASCII", func(c *v1alpha1.Credential) { c.Prefix = ptr.To("Bearer\r\n") }),
		"basic user with a colon":    credential(".basicUser", "basicUser must be printable ASCII without ':'", func(c *v1alpha1.Credential) { c.BasicUser = ptr.To("a:b") }),
		"basic user and header":      credential("", basic, func(c *v1alpha1.Credential) { c.BasicUser, c.Header = ptr.To("a"), ptr.To("X-Key") }),
		"basic user and prefix":      credential("", basic, func(c *v1alpha1.Credential) { c.BasicUser, c.Prefix = ptr.To("a"), ptr.To("") }),
		"env with a hyphen":          credential(".env", variable, func(c *v1alpha1.Credential) { c.Env = ptr.To("API-KEY") }),
		"env with a digit first":     credential(".env", variable, func(c *v1alpha1.Credential) { c.Env = ptr.To("1KEY") }),
		"credential without a key":   credential(".secretKeyRef.key", "", func(c *v1alpha1.Credential) { c.SecretKeyRef.Key = "" }),
		"credential without Secret":  credential(".secretKeyRef", "", func(c *v1alpha1.Credential) { c.SecretKeyRef = v1alpha1.SecretKeySelector{} }),
		"one env, two Secrets":       {builders.MakeBottle("a").Rules(credentialEnvRule("api", "KEY"), credentialEnvRule("other", "KEY")), "spec.egress.rules", "give each a variable of its own"},
		"env from the same Secret":   {builders.MakeBottle("a").Rules(credentialEnvRule("api", "KEY")).EnvFromSecret("KEY", "api", "other-key"), "spec.egress.rules", "the guest would have the secret in clear: remove the variable from spec.env"},
		"foreign bundle":             {foreign, "spec.egress.rules", "spec.egress.rules needs the built-in bundle"},
		"17 Secrets that may pass":   one(passRule(17), ".passSecrets", "at most 16 items"),
		"the same Secret passes twice": one(v1alpha1.HTTPRule{Host: "a.example", PassSecrets: []v1alpha1.LocalObjectReference{{Name: "s"}, {Name: "s"}}},
			".passSecrets[1]", "Duplicate value"),
		"65 rules":        {builders.MakeBottle("a").Rules(append(manyRules(), pathRule("/"))...), "spec.egress.rules", "at most 64 items"},
		"17 http entries": {withHTTP(make([]v1alpha1.HTTPMatch, 17)), "spec.egress.rules[0].http", "at most 16 items"},
		"33 paths":        one(pathRule(slices33()...), ".http[0].paths", "at most 32 items"),
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.Create(t.Context(), tc.bottle.Namespace(ns).Obj(), client.DryRunAll)
			if !apierrors.IsInvalid(err) {
				t.Fatalf("got %v, want it refused as invalid", err)
			}
			if !strings.Contains(err.Error(), tc.field+":") || !strings.Contains(err.Error(), tc.rule) {
				t.Errorf("got %v, want the field %s and %q", err, tc.field, tc.rule)
			}
		})
	}
}

func withHTTP(http []v1alpha1.HTTPMatch) *builders.Bottle {
	return builders.MakeBottle("a").Rules(v1alpha1.HTTPRule{Host: "api.example.com", HTTP: http})
}

func slices33() []v1alpha1.HTTPPath {
	var out []v1alpha1.HTTPPath
	for i := range 33 {
		out = append(out, v1alpha1.HTTPPath(fmt.Sprintf("/%d", i)))
	}
	return out
}

// A Secret stays allowed as a variable of the guest under another name than a
// credential's.
func TestSecretInEnvBesideCredential(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	for name, b := range map[string]*builders.Bottle{
		"another name":            builders.MakeBottle("a").Rules(credentialEnvRule("api", "KEY")).EnvFromSecret("OTHER", "api", "token"),
		"the name, a literal":     builders.MakeBottle("a").Rules(credentialEnvRule("api", "KEY")).Env("KEY", "x"),
		"the name, other Secret":  builders.MakeBottle("a").Rules(credentialEnvRule("api", "KEY")).EnvFromSecret("KEY", "other", "token"),
		"the name of a ConfigMap": builders.MakeBottle("a").Rules(credentialEnvRule("api", "KEY")).EnvFromConfigMap("KEY", "api", "token"),
	} {
		if err := c.Create(t.Context(), b.Namespace(ns).Obj(), client.DryRunAll); err != nil {
			t.Errorf("%s: got %v, want it accepted", name, err)
		}
	}
}
