// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/egress"
)

// limits close one network of each kind.
func limits(t *testing.T, ceiling ...string) egress.Limits {
	t.Helper()
	l := egress.Limits{}
	for _, c := range []struct {
		by      egress.ClosedBy
		network string
	}{
		{egress.BySubnetPool, "192.168.0.0/16"}, {egress.ByFlag, "10.96.0.0/12"}, {egress.ByFlag, "2001:db8:96::/48"},
		{egress.ByNode, "198.51.100.9/32"}, {egress.ByNode, "172.17.0.1/32"}, {egress.ByNode, "2001:db8:77::2/128"},
		{egress.ByBottle, "10.40.3.0/24"},
	} {
		l.Closed = append(l.Closed, egress.Closed{Network: netip.MustParsePrefix(c.network), By: c.by})
	}
	if ceiling != nil {
		s := set(t, ceiling...)
		l.Ceiling = &s
	}
	return l
}

// carrying returns IPv6 addresses that contain v4.
func carrying(v4 netip.Addr) []string {
	b := v4.As4()
	hi, lo := fmt.Sprintf("%02x%02x", b[0], b[1]), fmt.Sprintf("%02x%02x", b[2], b[3])
	return []string{
		"::ffff:" + v4.String(), "::ffff:" + hi + ":" + lo, "0:0:0:0:0:ffff:" + hi + ":" + lo, "::" + hi + ":" + lo, "::ffff:0:" + hi + ":" + lo,
		"64:ff9b::" + v4.String(), "64:ff9b::" + hi + ":" + lo, "64:ff9b:1::" + hi + ":" + lo, "64:ff9b:1:7::" + hi + ":" + lo,
		"64:ff9b:1:" + hi + ":" + fmt.Sprintf("%02x", b[2]) + ":" + fmt.Sprintf("%02x00", b[3]) + "::",
		fmt.Sprintf("64:ff9b:1:5%02x:%02x:%02x%02x::", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("64:ff9b:1:aa:%02x:%02x%02x:%02x00:0", b[0], b[1], b[2], b[3]),
		"2002:" + hi + ":" + lo + "::1", "2002:" + hi + ":" + lo + ":1:2:3:4:5",
	}
}

// tunnelled returns further addresses that contain v4: those of tunnels.
func tunnelled(v4 netip.Addr) []string {
	b := v4.As4()
	return []string{
		fmt.Sprintf("2001:0:%02x%02x:%02x%02x:0:0:34ff:8efe", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("2001:0:cb00:7101:0:f00d:%02x%02x:%02x%02x", ^b[0], ^b[1], ^b[2], ^b[3]),
		fmt.Sprintf("2001:db8:5::5efe:%02x%02x:%02x%02x", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("2001:db8:5::200:5efe:%02x%02x:%02x%02x", b[0], b[1], b[2], b[3]),
	}
}

// TestClosedInEverySpelling: what the platform closes is closed for an address in a
// request and for one that a name resolves to, in every form, whatever the rules say.
func TestClosedInEverySpelling(t *testing.T) {
	open := set(t, "0.0.0.0/0", "::/0", "node.example.com")
	s := limits(t).Apply(open, open)
	for v4, by := range map[string]egress.ClosedBy{
		"192.168.0.0": egress.BySubnetPool, "192.168.44.1": egress.BySubnetPool, "192.168.255.255": egress.BySubnetPool,
		"10.96.0.1": egress.ByFlag, "10.111.255.255": egress.ByFlag, "198.51.100.9": egress.ByNode, "172.17.0.1": egress.ByNode, "10.40.3.2": egress.ByBottle,
	} {
		addr := netip.MustParseAddr(v4)
		for _, host := range slices.Concat([]string{v4}, carrying(addr), tunnelled(addr)) {
			wantClosed(t, s, host, by)
		}
		for _, host := range spellings(addr) {
			if r, ok := s.Match(host, 443); ok {
				t.Errorf("%s: got rule %s, want none", host, r)
			}
		}
	}
	wantClosed(t, s, "2001:db8:77::2", egress.ByNode)
	wantClosed(t, s, "2001:DB8:96::1", egress.ByFlag)
	for _, host := range []string{
		"192.167.255.255", "192.169.0.0", "10.95.255.255", "10.112.0.0", "198.51.100.8", "198.51.100.10", "172.17.0.2", "10.40.2.255", "10.40.4.0",
		"2001:db8:77::1", "2001:db8:95::1", "64:ff9b::cb00:7101", "2002:cb00:7101::1", "64:ff9b:1::1", "2001::1",
	} {
		if r, ok := s.Match(host, 443); !ok || s.CheckAddr(netip.MustParseAddr(host), 443) != nil || s.Refusal(host, 443) != nil {
			t.Errorf("%s, which is not closed: got %v, %v", host, r, s.CheckAddr(netip.MustParseAddr(host), 443))
		}
	}
}

func wantClosed(t *testing.T, s egress.Set, host string, by egress.ClosedBy) {
	t.Helper()
	addr, err := netip.ParseAddr(host)
	if err != nil {
		t.Fatalf("%q: %v", host, err)
	}
	if r, ok := s.Match(host, 443); ok || s.AllowsAddr(addr, 443) {
		t.Errorf("%s: got rule %s, want none", host, r)
	}
	if r, ok := s.Match("["+host+"]", 443); ok {
		t.Errorf("[%s]: got rule %s, want none", host, r)
	}
	for name, err := range map[string]error{"resolved": s.CheckAddr(addr, 443), "requested": s.Refusal(host, 443)} {
		if egress.ClosedReason(err) != by || !strings.Contains(err.Error(), "is closed by the platform: it is "+by.String()) {
			t.Errorf("%s, %s: got %v, want it closed by %s", host, name, err, by)
		}
	}
}

// A guest must not be able to ask its bundle which addresses the node has.
func TestRefusalRevealsNothingThatNoRuleNames(t *testing.T) {
	asked := set(t, "198.51.100.9:22", "10.0.0.0/8:80", "api.example.com")
	s := limits(t).Apply(asked, asked)
	for _, tt := range []struct {
		host string
		port uint16
		want egress.ClosedBy
	}{
		{"198.51.100.9", 22, egress.ByNode}, {"64:ff9b::c633:6409", 22, ""}, {"198.51.100.9", 443, ""}, {"198.51.100.8", 22, ""}, {"172.17.0.1", 2375, ""},
		{"192.168.44.1", 22, ""}, {"10.96.0.1", 80, egress.ByFlag}, {"10.96.0.1", 443, ""}, {"10.1.0.1", 80, ""}, {"api.example.com", 443, ""},
	} {
		if got := egress.ClosedReason(s.Refusal(tt.host, tt.port)); got != tt.want {
			t.Errorf("%s port %d: got %q, want %q", tt.host, tt.port, got, tt.want)
		}
	}
}

// TestCheck: a rule is refused if all that it names is closed, and accepted if only
// a part is.
func TestCheck(t *testing.T) {
	for rule, want := range map[string]string{
		"192.168.44.2:8888":           "is in the subnet pool 192.168.0.0/16",
		"192.168.44.0/24":             "is in the subnet pool 192.168.0.0/16",
		"192.168.0.0/16":              "is in the subnet pool 192.168.0.0/16",
		"10.40.3.2":                   "is in the network of a Bottle",
		"198.51.100.9:10250":          "is an address of this node",
		"172.17.0.1:2375":             "is an address of this node",
		"[2001:db8:77::2]:22":         "is an address of this node",
		"10.96.0.1":                   "is in --egress-closed 10.96.0.0/12 of the node's agent",
		"10.100.0.0/16:80":            "is in --egress-closed 10.96.0.0/12 of the node's agent",
		"[2001:db8:96:1::/64]:80":     "is in --egress-closed 2001:db8:96::/48 of the node's agent",
		"64:ff9b::ac11:1":             "is an address of this node",
		"64:ff9b::c0a8:2c00/120":      "is in the subnet pool",
		"2002:c0a8:2c01::/48":         "is in the subnet pool",
		"2002:c0a8:2c01:1::/64":       "is in the subnet pool",
		"2002:c0a8::/32":              "is in the subnet pool",
		"64:ff9b:1::a60:0/108":        "is in --egress-closed 10.96.0.0/12",
		"::a60:1":                     "is in --egress-closed 10.96.0.0/12",
		"2001:0:cb00:7101::53ee:fffe": "is an address of this node",
		"2001:db8:5::5efe:ac11:1":     "is an address of this node",
		"0.0.0.0/0":                   "",
		"10.0.0.0/8:443":              "",
		"192.168.0.0/15":              "",
		"10.40.0.0/16":                "",
		"172.17.0.0/16":               "",
		"::/0":                        "",
		"2002::/16":                   "",
		"2002:c0a8::/31":              "",
		"64:ff9b::/96":                "",
		"203.0.113.7":                 "",
		"api.example.com":             "",
		"*.example.com:8443":          "",
	} {
		r, err := egress.Parse(rule)
		if err != nil {
			t.Fatal(err)
		}
		err = limits(t).Check(r)
		if want == "" {
			if err != nil {
				t.Errorf("%s: got %v, want it accepted", rule, err)
			}
			continue
		}
		var refused *egress.LimitError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "remove the rule") {
			t.Errorf("%s: got %v, want %q and what to do", rule, err, want)
		}
	}
}

// Networks that together contain a rule close it, although none does alone.
func TestCheckOfARuleInSeveralNetworks(t *testing.T) {
	l := egress.Limits{}
	for _, n := range []string{"10.0.0.0/10", "10.64.0.0/10", "10.128.0.0/9", "192.0.2.0/25"} {
		l.Closed = append(l.Closed, egress.Closed{Network: netip.MustParsePrefix(n), By: egress.ByFlag})
	}
	for rule, want := range map[string]bool{"10.0.0.0/8": true, "10.0.0.0/9": true, "10.0.0.0/7": false, "192.0.2.0/24": false, "192.0.2.0/26": true, "::/0": false} {
		r, err := egress.Parse(rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Check(r) != nil; got != want {
			t.Errorf("%s: got refused %t, want %t", rule, got, want)
		}
	}
}

func TestCeiling(t *testing.T) {
	l := limits(t, "*.example.com", "api.github.com", "203.0.113.0/24:8443", "10.0.0.0/8:80")
	for rule, want := range map[string]bool{
		"a.example.com": true, "*.a.example.com": true, "*.example.com": true, "example.com": false, "a.example.com:80": false, "*.com": false,
		"api.github.com": true, "github.com": false, "203.0.113.7:8443": true, "203.0.113.7": false, "203.0.0.0/16:8443": false, "10.1.0.0/16:80": true, "0.0.0.0/0:80": false,
	} {
		r, err := egress.Parse(rule)
		if err != nil {
			t.Fatal(err)
		}
		err = l.Check(r)
		if want != (err == nil) {
			t.Errorf("%s: got %v, want accepted %t", rule, err, want)
		}
		if err != nil && (!strings.Contains(err.Error(), "not within --egress-ceiling") || !strings.Contains(err.Error(), "remove the rule")) {
			t.Errorf("%s: got %v, want it to name the flag and what to do", rule, err)
		}
	}
	asked := set(t, "0.0.0.0/0:80", "a.example.com", "evil.test", "203.0.113.0/25:8443")
	s := l.Apply(asked, asked)
	if d := cmp.Diff([]string{"10.0.0.0/8:80", "203.0.113.0/25:8443", "a.example.com:443"}, texts(s)); d != "" {
		t.Errorf("in force (-want +got):\n%s", d)
	}
	for _, host := range []string{"evil.test:443", "203.0.113.7:80"} {
		name, _, _ := strings.Cut(host, ":")
		port := uint16(443)
		if strings.HasSuffix(host, ":80") {
			port = 80
		}
		if err := s.Refusal(name, port); egress.ClosedReason(err) != egress.ByCeiling || !strings.Contains(err.Error(), "closed by the platform: it is not within --egress-ceiling") {
			t.Errorf("%s: got %v, want the ceiling", host, err)
		}
	}
	if err := s.Refusal("other.test", 443); err != nil {
		t.Errorf("a name that no rule names: got %v, want nil", err)
	}
	empty := egress.Limits{Ceiling: &egress.Set{}}
	if got := texts(empty.Apply(asked, asked)); len(got) != 0 {
		t.Errorf("a ceiling of nothing: got %q, want no rule", got)
	}
}

// TestLimitNeverAdds: what was closed or refused before stays so until the rules are
// written anew.
func TestLimitNeverAdds(t *testing.T) {
	asked := set(t, "172.17.0.1:2375", "api.example.com", "0.0.0.0/0:80")
	s := limits(t).Apply(asked, asked)
	if d := cmp.Diff([]string{"0.0.0.0/0:80", "api.example.com:443"}, texts(s)); d != "" {
		t.Fatalf("in force (-want +got):\n%s", d)
	}
	later := egress.Limits{Closed: []egress.Closed{{Network: netip.MustParsePrefix("203.0.113.9/32"), By: egress.ByNode}}}.Limit(s)
	if d := cmp.Diff(texts(s), texts(later)); d != "" {
		t.Errorf("in force later (-want +got):\n%s", d)
	}
	for host, by := range map[string]egress.ClosedBy{"192.168.44.1": egress.BySubnetPool, "203.0.113.9": egress.ByNode} {
		if got := egress.ClosedReason(later.CheckAddr(netip.MustParseAddr(host), 80)); got != by {
			t.Errorf("%s: got %q, want it closed by %s", host, got, by)
		}
	}
	if got := egress.ClosedReason(later.Refusal("172.17.0.1", 2375)); got != egress.ByNode {
		t.Errorf("a rule refused before: got %q, want the reason to be kept", got)
	}
	both := later.Intersect(set(t, "api.example.com"))
	if got := egress.ClosedReason(both.CheckAddr(netip.MustParseAddr("203.0.113.9"), 443)); got != egress.ByNode {
		t.Errorf("intersection: got %q, want what the platform closed to stay closed", got)
	}
}

func TestFileWithLimits(t *testing.T) {
	asked := set(t, "172.17.0.1:2375", "evil.test", "a.example.com", "0.0.0.0/0:80")
	l := limits(t, "a.example.com", "0.0.0.0/0:80", "172.17.0.1:2375")
	data, err := egress.EncodeFile(l.Apply(asked, asked))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":1,"allow":["a.example.com:443","0.0.0.0/0:80"],"closed":{"bottle-network":["10.40.3.0/24"],"egress-closed":["10.96.0.0/12","2001:db8:96::/48"],` +
		`"node-address":["198.51.100.9/32","172.17.0.1/32","2001:db8:77::2/128"],"subnet-pool":["192.168.0.0/16"]},"refused":["evil.test:443","172.17.0.1:2375"]}` + "\n"
	if d := cmp.Diff(want, string(data)); d != "" {
		t.Errorf("file (-want +got):\n%s", d)
	}
	s, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	again, err := egress.EncodeFile(s)
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("encoded again: got %s, %v, want the same", again, err)
	}
	wantRefusals := map[string]egress.ClosedBy{"172.17.0.1:2375": egress.ByNode, "evil.test:443": egress.ByCeiling, "192.168.1.1:80": egress.BySubnetPool, "other.test:443": ""}
	for target, by := range wantRefusals {
		host, port, _ := strings.Cut(target, ":")
		n := map[string]uint16{"2375": 2375, "443": 443, "80": 80}[port]
		if got := egress.ClosedReason(s.Refusal(host, n)); got != by {
			t.Errorf("%s: got %q, want %q", target, got, by)
		}
	}
	// A later release may close networks for a reason that this one does not know.
	s, err = egress.DecodeFile(strings.NewReader(`{"version":1,"allow":["0.0.0.0/0"],"closed":{"a-new-reason":["203.0.113.0/24"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Refusal("203.0.113.1", 443); err == nil || !strings.Contains(err.Error(), "closed by the platform: it is closed on this node") || strings.Contains(err.Error(), "a-new-reason") {
		t.Errorf("an unknown limit: got %v, want it closed", err)
	}
	for _, bad := range []string{
		`{"version":1,"allow":["a.test"],"closed":{"node-address":["nonsense"]}}`, `{"version":1,"allow":["a.test"],"closed":{"node-address":[""]}}`,
		`{"version":1,"allow":["a.test"],"closed":{"node-address":["::ffff:10.0.0.0/104"]}}`, `{"version":1,"allow":["a.test"],"refused":["http://x"]}`,
	} {
		if s, err := egress.DecodeFile(strings.NewReader(bad)); err == nil || len(s.Rules()) != 0 {
			t.Errorf("%s: got %v, %v, want an error and no rules", bad, s.Rules(), err)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	for text, want := range map[string]string{
		"10.96.0.0/12": "", "0.0.0.0/0": "", "fd00::/8": "", "10.0.0.1/32": "",
		"10.96.0.1/12": "the network is 10.96.0.0/12", "10.96.0.0": "want a network such as", "": "want a network such as", "kubernetes.default": "want a network such as",
		"::ffff:10.0.0.0/104": "IPv4 network in its own form", "10.0.0.0/33": "want a network such as", "fe80::%eth0/64": "want a network such as",
	} {
		_, err := egress.ParseNetwork(text)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestClosedDenials(t *testing.T) {
	var d egress.Denials
	d.AddClosed("node.example.com", 443, egress.ByNode)
	d.Add("other.example.com", 443)
	d.AddClosed("10.96.0.1", 80, egress.ByFlag)
	d.AddClosed("new.example.com", 443, "<script>")
	want := []string{"new.example.com:443: closed on this node", "10.96.0.1:80: in a network that --egress-closed names", "node.example.com:443: an address of this node"}
	if got := d.ListClosed(); !slices.Equal(got, want) {
		t.Errorf("closed: got %q, want %q", got, want)
	}
	d.Add("node.example.com", 443) // denied for another reason now
	if got := d.ListClosed(); len(got) != 2 {
		t.Errorf("closed: got %q, want node.example.com gone", got)
	}
	for i := range 40 {
		d.AddClosed(fmt.Sprint(strings.Repeat("x", 64-3), i, ".test"), 65535, egress.BySubnetPool)
	}
	if got := d.ListClosed(); len(got) != egress.MaxDenials || len(got[0]) > 200 {
		t.Errorf("closed: got %d of up to %d characters, want 16 of at most 200", len(got), len(got[0]))
	}
}
