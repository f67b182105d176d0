// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

// The API server and the parser of the bundle's rules agree on what a valid rule
// is. (Only the parser knows which networks can never be allowed; a condition
// reports those.)
func TestEgressRulesAgree(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	rules := map[v1alpha1.EgressRule]bool{}
	for _, r := range []v1alpha1.EgressRule{
		"example.com.", "example.com.:443", "example.com..", "EXAMPLE.com", "*.example.com.", "*.", ".", "-a.example", "a-.example", "a_b.example",
		v1alpha1.EgressRule(strings.Repeat("a", 63)), v1alpha1.EgressRule(strings.Repeat("a", 64)), "127.1", "0x7f.1", "a.0x", "a.1.", "1.2.3.4.", "1.2.3.4:1", "01.2.3.4",
		"203.0.113.0/24", "203.0.113.1/24", "203.0.113.0/024", "203.0.113.0/33", "203.0.113.0/24:443", "203.0.113/24",
		"2001:db8::1", "2001:db8::/32", "2001:db8::1/32", "[2001:db8::1]", "[2001:db8::1]:1", "[203.0.113.7]", "[203.0.113.7]:443", "[203.0.113.0/24]", "[abc]", "[abc]:443", "[::ffff:203.0.113.7]", "::ffff:203.0.113.7",
		"2001:db8::1%eth0", "a:b", "a:b:c", "dead:beef", "a:80", "a:080", "a:00080", "a:0", "a:65535", "a:65536", "a:", ":80", "localhost", "LocalHost.:1", "a.localhost", "localhost.example",
		"xn--bcher-kva.example", "ex\u00e4mple.com", "a,b", "a b", "a\tb", "a/b", "*", "**.a", "*a.example", "a.*", "[", "]", "[]", "[]:1", "[::1", "::1]", "[2001:db8::1]443", "[2001:db8::1]:",
	} {
		rules[r] = true
	}
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"a", "example", "com", ".", ".", ":", "443", "0", "70000", "*.", "[", "]", "/", "24", "203.0.113.0", "2001:db8::", "::", "-", "_", "localhost", "0x7f", " ", "1", "A"}
	for len(rules) < 1500 {
		var b strings.Builder
		for range 1 + random.IntN(6) {
			b.WriteString(parts[random.IntN(len(parts))])
		}
		rules[v1alpha1.EgressRule(b.String())] = true
	}
	var batch []v1alpha1.EgressRule
	check := func() {
		t.Helper()
		refused := refusedRules(t, c, ns, batch)
		for i, r := range batch {
			_, err := egress.Parse(string(r))
			if never := err != nil && strings.Contains(err.Error(), "can never be allowed: it is"); never && !strings.Contains(err.Error(), "localhost") {
				continue
			}
			if got, want := refused[i] == "", err == nil; got != want {
				t.Errorf("%q: got accepted %t by the API server (%s), want %t as the parser does (%v)", r, got, refused[i], want, err)
			}
		}
		batch = nil
	}
	for r := range rules {
		if batch = append(batch, r); len(batch) == 100 {
			check()
		}
	}
	check()
}

// refusedRules returns why the API server refuses each rule, "" for accepted ones.
func refusedRules(t *testing.T, c client.Client, ns string, rules []v1alpha1.EgressRule) []string {
	t.Helper()
	reasons := make([]string, len(rules))
	err := c.Create(t.Context(), builders.MakeBottle("a").Namespace(ns).Allow(rules...).Obj(), client.DryRunAll)
	if err == nil {
		return reasons
	}
	var status *apierrors.StatusError
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) {
		t.Fatal(err)
	}
	for _, cause := range status.ErrStatus.Details.Causes {
		var i int
		if n, _ := fmt.Sscanf(cause.Field, "spec.egress.allow[%d]", &i); n == 1 {
			reasons[i] += cause.Message + "; "
		}
	}
	return reasons
}
