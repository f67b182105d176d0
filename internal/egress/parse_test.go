// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"errors"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/egress"
)

func TestParse(t *testing.T) {
	tests := map[string]string{ // text: canonical
		"api.example.com":                    "api.example.com:443",
		"api.example.com:8443":               "api.example.com:8443",
		"API.Example.COM.":                   "api.example.com:443",
		"api.example.com.:80":                "api.example.com:80",
		"*.example.com":                      "*.example.com:443",
		"*.Example.com.:1":                   "*.example.com:1",
		"*.com:65535":                        "*.com:65535",
		"intranet:80":                        "intranet:80",
		"xn--bcher-kva.example":              "xn--bcher-kva.example:443",
		"_dmarc.a-b.example":                 "_dmarc.a-b.example:443",
		"1password.com":                      "1password.com:443",
		"7.example":                          "7.example:443",
		"0x7f.example":                       "0x7f.example:443",
		"203.0.113.7":                        "203.0.113.7:443",
		"203.0.113.7:22":                     "203.0.113.7:22",
		"203.0.113.7/32":                     "203.0.113.7:443",
		"203.0.113.0/24":                     "203.0.113.0/24:443",
		"10.0.0.0/8:5432":                    "10.0.0.0/8:5432",
		"0.0.0.0/0":                          "0.0.0.0/0:443",
		"2001:db8::1":                        "[2001:db8::1]:443",
		"2001:DB8:0::0001":                   "[2001:db8::1]:443",
		"[2001:db8::1]":                      "[2001:db8::1]:443",
		"[2001:db8::1]:80":                   "[2001:db8::1]:80",
		"2001:db8::1:80":                     "[2001:db8::1:80]:443",
		"2001:db8::/32":                      "[2001:db8::/32]:443",
		"[2001:db8::/32]":                    "[2001:db8::/32]:443",
		"[2001:db8::/32]:8080":               "[2001:db8::/32]:8080",
		"[2001:db8::1/128]:80":               "[2001:db8::1]:80",
		"::/0":                               "[::/0]:443",
		"fd12:3456::1":                       "[fd12:3456::1]:443",
		strings.Repeat("a", 63) + ".example": strings.Repeat("a", 63) + ".example:443",
		strings.Repeat("a.", 126) + "b":      strings.Repeat("a.", 126) + "b:443",
	}
	for text, want := range tests {
		got, err := egress.Parse(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: got %s, %v, want %s", text, got, err, want)
		}
		again, err := egress.Parse(got.String())
		if err != nil || again != got {
			t.Errorf("%q of %q: got %s, %v, want %s", got, text, again, err, got)
		}
	}
}

// Each error names the rule and says what to do about it.
func TestParseRefuses(t *testing.T) {
	tests := map[string]string{ // text: part of the error
		"":                              "is empty",
		"https://example.com":           "leave out the scheme",
		"example.com/path":              "leave that out",
		"example.com/":                  "leave that out",
		"user@example.com":              "leave out user",
		"example.com?q":                 "leave out user, query",
		"a.example b.example":           "contains white space",
		" example.com":                  "contains white space",
		"example.com\n":                 "contains white space",
		"ex\x00ample.com":               "control character",
		"bücher.example":                "punycode",
		"example。com":                   "punycode",
		"１２７.0.0.1":                     "punycode",
		"*":                             "is not a leading",
		"*:443":                         "is not a leading",
		"a.*.example":                   "is not a leading",
		"*.*.example":                   "is not a leading",
		"*example.com":                  "is not a leading",
		"*.":                            "names no host",
		".":                             "names no host",
		":443":                          "names no host",
		"example..com":                  "empty part",
		".example.com":                  "empty part",
		"example.com..":                 "empty part",
		"-a.example":                    "hyphen",
		"a-.example":                    "hyphen",
		"a,b.example":                   "not allowed in a host name: ','",
		"a%2e.example":                  "not allowed in a host name: '%'",
		"example.com:":                  "no port after the colon",
		"example.com:0":                 `port "0": want a number from 1 to 65535`,
		"example.com:70000":             `port "70000"`,
		"example.com:+80":               `port "+80"`,
		"example.com:-1":                `port "-1"`,
		"example.com:080":               `port "080"`,
		"example.com:http":              `port "http"`,
		"example.com:*":                 `port "*"`,
		"example.com:80:90":             "[ADDRESS]:PORT",
		"127.1":                         "ends in a number",
		"2130706433":                    "ends in a number",
		"0x7f.1":                        "ends in a number",
		"0x7f000001":                    "ends in a number",
		"0X7F000001":                    "ends in a number",
		"0x":                            "ends in a number",
		"0177.0.0.1":                    "ends in a number",
		"010.0.0.1":                     "ends in a number",
		"1.2.3":                         "ends in a number",
		"1.2.3.4.5":                     "ends in a number",
		"256.0.0.1":                     "ends in a number",
		"203.0.113.7.":                  "ends in a number",
		"*.0.0.1":                       "ends in a number",
		"example.1":                     "ends in a number",
		"example.0xff":                  "ends in a number",
		"10.0.0.1/8":                    "the network is 10.0.0.0/8",
		"10.0.0.0/33":                   "not a CIDR",
		"10.0.0.0/08":                   "not a CIDR",
		"10.0.0.0/":                     "not a CIDR",
		"[2001:db8::1/32]:443":          "the network is 2001:db8::/32",
		"[2001:db8::1":                  "no closing bracket",
		"[2001:db8::]/32:443":           "a prefix length goes inside",
		"[2001:db8::1]443":              ":PORT after the bracket",
		"[2001:db8::1]:":                ":PORT after the bracket",
		"[203.0.113.7]:443":             "IPv4 in brackets",
		"[203.0.113.0/24]":              "IPv4 in brackets",
		"[example.com]:443":             "not an IPv6 address",
		"[]:443":                        "not an IPv6 address",
		"fe80::1%eth0":                  "has a zone",
		"[2001:db8::1%1]:443":           "has a zone",
		"::ffff:203.0.113.7":            "write it as IPv4",
		"[::ffff:cb00:7107]:443":        "write it as IPv4",
		"::ffff:0:0/96":                 "write it as IPv4",
		"localhost":                     "localhost is the bundle itself",
		"LOCALHOST.:80":                 "localhost is the bundle itself",
		"a.localhost":                   "localhost is the bundle itself",
		"*.localhost":                   "localhost is the bundle itself",
		"127.0.0.1:8888":                "can never be allowed: it is loopback",
		"127.0.0.0/8":                   "can never be allowed: it is loopback",
		"127.8.0.0/16":                  "can never be allowed: it is loopback",
		"169.254.169.254:80":            "can never be allowed: it is link-local, where cloud metadata lives",
		"100.100.100.200":               "a cloud metadata service",
		"0.0.0.0":                       "an address of this host",
		"255.255.255.255":               "reserved or broadcast",
		"239.1.2.3":                     "multicast",
		"::":                            "the unspecified address",
		"[::1]:80":                      "loopback",
		"fe80::/64":                     "link-local",
		"ff02::1":                       "multicast",
		"64:ff9b::7f00:1":               "loopback",
		"::127.0.0.1":                   "loopback",
		"2002:a9fe:a9fe::1":             "link-local, where cloud metadata lives",
		strings.Repeat("a", 64) + ".de": "more than 63 characters",
		strings.Repeat("a.", 127) + "b": "more than 253 characters",
		strings.Repeat("a", 5000):       "longer than 280 characters",
	}
	for text, want := range tests {
		got, err := egress.Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %s, %v, want an error with %q", text, got, err, want)
			continue
		}
		if got != (egress.Rule{}) {
			t.Errorf("%q: got rule %s with the error, want none", text, got)
		}
		var re *egress.RuleError
		if !errors.As(err, &re) || re.Rule != text {
			t.Errorf("%q: got %v, want an error that names the rule", text, err)
		}
		if len(err.Error()) > 700 {
			t.Errorf("%q: got an error of %d bytes, want at most 700", text, len(err.Error()))
		}
	}
}

func TestRuleAccessors(t *testing.T) {
	for text, want := range map[string]struct {
		addr bool
		port uint16
	}{"example.com": {false, 443}, "*.example.com:80": {false, 80}, "203.0.113.7:22": {true, 22}, "::/0": {true, 443}} {
		r, err := egress.Parse(text)
		if err != nil || r.IsAddr() != want.addr || r.Port() != want.port {
			t.Errorf("%s: got address %v, port %d, %v, want %v, %d", text, r.IsAddr(), r.Port(), err, want.addr, want.port)
		}
	}
}
