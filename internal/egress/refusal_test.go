// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/egress"
)

// causes are all causes, and one that no release knows.
var causes = []egress.Cause{
	egress.CauseNoRule, egress.CauseOtherPort, egress.CausePrivate, egress.CauseNever, egress.CauseOwnNetwork, egress.CausePlatform, egress.CauseRulesChanged,
	egress.CauseScheme, egress.CauseBody, egress.CausePort, egress.CauseRequest,
	egress.CauseUnknownName, egress.CauseResolver, egress.CauseConnectionRefused, egress.CauseTimeout, egress.CauseNoRoute, egress.CauseUnreachable, egress.CauseBadAnswer, "later",
	egress.CauseMethodPath, egress.CausePath, egress.CauseKnownSecret, egress.CauseNeedsTLS, egress.CauseHostMismatch, egress.CauseCredentialMissing,
	egress.CauseUpstreamCertificate, egress.CauseCoding, egress.CauseShortSecret,
}

// TestRefusalAdvice checks that whatever rule a refusal tells the user to add allows
// exactly what was refused.
func TestRefusalAdvice(t *testing.T) {
	for host, want := range map[string]string{
		"api.example.com":                        "api.example.com:8443",
		"API.Example.com.":                       "api.example.com:8443",
		"203.0.113.5":                            "203.0.113.5:8443",
		"2001:db8::5":                            "[2001:db8::5]:8443",
		"[2001:db8::5]":                          "[2001:db8::5]:8443",
		"xn--bcher-kva.example":                  "xn--bcher-kva.example:8443",
		"::ffff:203.0.113.5":                     "203.0.113.5:8443",
		"127.0.0.1":                              "",
		"169.254.169.254":                        "",
		"127.1":                                  "",
		"*.example.com":                          "",
		"203.0.113.0/24":                         "",
		"a b":                                    "",
		"evil.example.com/x":                     "",
		`evil"\u202e.example.com`:                "",
		"":                                       "",
		strings.Repeat("a.", 31) + "example.com": "", // it is shown cut
	} {
		r := egress.Refusal{Host: host, Port: 8443, Cause: egress.CauseNoRule}
		got := ""
		if _, rest, ok := strings.Cut(r.WhatToDo(), "add "); ok {
			got, _ = strconv.Unquote(strings.TrimSuffix(rest, " to spec.egress.allow of the Bottle"))
		}
		if got != want {
			t.Errorf("%q: got advice to add %q, want %q", host, got, want)
		}
		if got == "" {
			continue
		}
		set, err := egress.ParseSet([]string{got})
		if err != nil {
			t.Fatalf("%q: %v", host, err)
		}
		if _, ok := set.Match(host, 8443); !ok {
			t.Errorf("%q: rule %s does not allow it", host, got)
		}
	}
}

func TestAllowsOtherPort(t *testing.T) {
	set, err := egress.ParseSet([]string{"api.example.com", "*.wild.example.com:80", "203.0.113.0/24:22"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"api.example.com": true, "a.wild.example.com": true, "203.0.113.9": true,
		"wild.example.com": false, "other.example.com": false, "203.0.114.9": false, "127.0.0.1": false, "": false,
	} {
		if got := set.AllowsOtherPort(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}

// FuzzRefusal checks three things about the text of a refusal, whatever its fields
// contain. It is one short line of printable ASCII. Logging a refusal and reading it back
// gives the same text. The host's name appears only as the host and in the advised rule.
func FuzzRefusal(f *testing.F) {
	f.Add("api.example.com", uint16(443), uint8(0), "10.0.0.5", "egress-closed", "", "", "")
	f.Add("\x00\n\u202e ", uint16(0), uint8(2), "", "\x1b", "GET", "x", "body")
	f.Add(strings.Repeat("a.", 100), uint16(65535), uint8(5), "fe80::1%eth0", "subnet-pool", "POST", "", "")
	f.Add("api.example.com", uint16(443), uint8(19), "", "", "GET", "", "")
	f.Add("api.example.com", uint16(443), uint8(21), "", "", "PO\nST", strings.Repeat("s", 300), "x\x1b")
	f.Add(strings.Repeat("a.", 30)+"a\x01", uint16(443), uint8(slices.Index(causes, egress.CauseNoRule)), "", "", "", "", "")
	f.Fuzz(func(t *testing.T, host string, port uint16, cause uint8, address, by, method, secret, place string) {
		addr, _ := netip.ParseAddr(address)
		r := egress.Refusal{Host: host, Port: port, Cause: causes[int(cause)%len(causes)], Addr: addr, By: egress.ClosedBy(by),
			Method: method, Secret: secret, Key: secret, Place: place}
		text := r.String()
		if len(text) > 450 || len(r.Why()) > 200 || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' }) || r.Why() == "" {
			t.Fatalf("got %q (%d), want one line of bounded printable ASCII", text, len(text))
		}
		r.Host = egress.PrintableHost(host)
		if again := r.String(); again != text {
			t.Fatalf("from the log: got %q, want %q", again, text)
		}
	})
}

func TestRefusalsOfOpenedHosts(t *testing.T) {
	refusal := func(cause egress.Cause) egress.Refusal {
		return egress.Refusal{Host: "api.example.com", Port: 443, Cause: cause, Method: "DELETE", Secret: "github", Key: "token", Place: "url"}
	}
	other := refusal(egress.CauseMethodPath)
	other.Method = egress.KnownMethod("delete")
	unknown := refusal(egress.CauseKnownSecret)
	unknown.Secret, unknown.Place = "", "the moon"
	for want, r := range map[string]egress.Refusal{
		"no rule for this host allows this method and path; to allow it, add DELETE and its path to the host's rule in spec.egress.rules of the Bottle":                                    refusal(egress.CauseMethodPath),
		"no rule for this host allows this method and path; to allow it, add the method and its path to the host's rule in spec.egress.rules of the Bottle":                                other,
		"the URL of the request contains the value of key token of the Secret github; to let the Secret pass, add it to passSecrets of the host's rule in spec.egress.rules of the Bottle": refusal(egress.CauseKnownSecret),
		"the request contains the value of a Secret of the Bottle; to let the Secret pass, add it to passSecrets of the host's rule in spec.egress.rules of the Bottle":                    unknown,
		"the bundle does not have the credential that the rule for this request adds; create the Secret and the key that its secretKeyRef names":                                           refusal(egress.CauseCredentialMissing),
		"requests to this host must use TLS; use https": refusal(egress.CauseNeedsTLS),
	} {
		if got := r.Reason(); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", r.Cause, got, want)
		}
	}
	for _, cause := range causes {
		if do := refusal(cause).WhatToDo(); len(do) > 150 {
			t.Errorf("%s: got advice of %d characters, want at most 150", cause, len(do))
		}
	}
}
