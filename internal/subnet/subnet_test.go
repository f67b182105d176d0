// SPDX-License-Identifier: Apache-2.0

package subnet_test

import (
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/subnet"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func mustParse(t testing.TB, pool string, bits int, exclude ...string) *subnet.Pool {
	t.Helper()
	p, err := subnet.Parse(pool, bits, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestVectors checks vectors that were not computed by this package. A change to
// the formula would move every Bottle.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	var p *subnet.Pool
	checked := 0
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		switch {
		case f[0] == "#":
		case f[0] == "pool":
			bits, err := strconv.Atoi(f[2])
			if err != nil {
				t.Fatal(err)
			}
			var exclude []string
			if f[3] != "-" {
				exclude = strings.Split(f[3], ",")
			}
			p = mustParse(t, f[1], bits, exclude...)
			if got := strconv.Itoa(p.Len()); got != f[4] {
				t.Errorf("candidates of %s: got %s, want %s", f[1], got, f[4])
			}
		default:
			tr, err := p.Pick(f[0], nil, nil)
			got := strings.Join([]string{tr.Subnet.String(), tr.Gateway.String(), tr.BundleIP.String(), tr.MachineIP.String()}, " ")
			if want := strings.Join(f[1:], " "); err != nil || got != want {
				t.Errorf("slug %s: got %s, %v, want %s", f[0], got, err, want)
			}
			if got := p.FirstChoice(f[0]).String(); got != f[1] {
				t.Errorf("first choice of %s: got %s, want %s", f[0], got, f[1])
			}
			checked++
		}
	}
	if checked != 80 {
		t.Errorf("vectors: got %d, want 80", checked)
	}
}

func TestDefaultCandidates(t *testing.T) {
	want := 0
	for got := range subnet.Default().Candidates() {
		if want == 17 {
			want++
		}
		if text := "192.168." + strconv.Itoa(want) + ".0/24"; got.String() != text {
			t.Fatalf("candidate: got %s, want %s", got, text)
		}
		want++
	}
	if want != 255 {
		t.Errorf("last third octet: got %d, want 254", want-1)
	}
	if got := subnet.Default().Len(); got != 254 {
		t.Errorf("candidates: got %d, want 254", got)
	}
}

func TestPickAvoidsOccupied(t *testing.T) {
	tests := map[string]struct {
		slug     string
		occupied []string
		want     string
	}{
		"first choice":                 {"demo", nil, "192.168.109.0/24"},
		"another Bottle on it":         {"demo", []string{"192.168.109.0/24"}, "192.168.110.0/24"},
		"a run of Bottles":             {"demo", []string{"192.168.110.0/24", "192.168.109.0/24", "192.168.111.0/24"}, "192.168.112.0/24"},
		"an address of the host in it": {"demo", []string{"192.168.109.77/32"}, "192.168.110.0/24"},
		"an address with its length":   {"demo", []string{"192.168.109.77/24"}, "192.168.110.0/24"},
		"a larger route over it":       {"demo", []string{"192.168.96.0/20"}, "192.168.112.0/24"},
		"neighbours do not matter":     {"demo", []string{"192.168.108.0/24", "192.168.110.0/24"}, "192.168.109.0/24"},
		"skips the excluded 17":        {"research", []string{"192.168.16.0/24"}, "192.168.18.0/24"},
		"wraps around":                 {"agent", []string{"192.168.253.0/24", "192.168.254.0/24"}, "192.168.0.0/24"},
		"wraps around, start is taken": {"agent", []string{"192.168.253.0/24", "192.168.254.0/24", "192.168.0.0/23"}, "192.168.2.0/24"},
		"only the one before is left":  {"demo", []string{"192.168.0.0/18", "192.168.64.0/19", "192.168.96.0/21", "192.168.104.0/22", "192.168.109.0/24", "192.168.110.0/23", "192.168.112.0/20", "192.168.128.0/17"}, "192.168.108.0/24"},
		"IPv6 occupies nothing":        {"demo", []string{"::/0", "fd00::/8"}, "192.168.109.0/24"},
		"IPv4 written as IPv6":         {"demo", []string{"::ffff:192.168.109.0/120"}, "192.168.110.0/24"},
		"networks elsewhere":           {"demo", []string{"10.0.0.0/8", "172.17.0.0/16"}, "192.168.109.0/24"},
		"the same several times":       {"demo", []string{"192.168.109.0/24", "192.168.109.0/24", "192.168.109.1/32"}, "192.168.110.0/24"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := subnet.Default().Pick(tt.slug, prefixes(tt.occupied...), nil)
			if err != nil || got.Subnet.String() != tt.want {
				t.Errorf("got %s, %v, want %s", got.Subnet, err, tt.want)
			}
		})
	}
}

func TestPickFillsThePool(t *testing.T) {
	p := subnet.Default()
	var occupied []netip.Prefix
	for i := range p.Len() {
		tr, err := p.Pick("demo", occupied, nil)
		if err != nil {
			t.Fatalf("pick %d: %v", i, err)
		}
		occupied = append(occupied, tr.Subnet)
	}
	if _, err := p.Pick("demo", occupied, nil); !errors.Is(err, subnet.ErrExhausted) {
		t.Errorf("got %v, want %v", err, subnet.ErrExhausted)
	}
	freed := occupied[200]
	if tr, err := p.Pick("other", append(occupied[:200:200], occupied[201:]...), nil); err != nil || tr.Subnet != freed {
		t.Errorf("after one was freed: got %s, %v, want %s", tr.Subnet, err, freed)
	}
}

func TestPickIsExhausted(t *testing.T) {
	for _, occupied := range []string{"0.0.0.0/0", "192.168.0.0/16", "128.0.0.0/1", "::ffff:0.0.0.0/96"} {
		_, err := subnet.Default().Pick("demo", prefixes(occupied), nil)
		if !errors.Is(err, subnet.ErrExhausted) {
			t.Errorf("%s occupied: got %v, want %v", occupied, err, subnet.ErrExhausted)
		}
	}
}

func TestPickRefusesAnInvalidPrefix(t *testing.T) {
	_, err := subnet.Default().Pick("demo", []netip.Prefix{{}}, nil)
	if err == nil || errors.Is(err, subnet.ErrExhausted) {
		t.Errorf("got %v, want an error that is not %v", err, subnet.ErrExhausted)
	}
}

func TestTripleOf(t *testing.T) {
	tr, err := subnet.TripleOf(netip.MustParsePrefix("10.64.3.8/29"))
	want := subnet.Triple{
		Subnet:    netip.MustParsePrefix("10.64.3.8/29"),
		Gateway:   netip.MustParseAddr("10.64.3.9"),
		BundleIP:  netip.MustParseAddr("10.64.3.10"),
		MachineIP: netip.MustParseAddr("10.64.3.11"),
	}
	if err != nil || tr != want {
		t.Errorf("got %v, %v, want %v", tr, err, want)
	}
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("10.64.3.8/30"), netip.MustParsePrefix("10.64.3.9/24"),
		netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("127.0.0.0/24"), netip.MustParsePrefix("0.0.0.0/0")} {
		if tr, err := subnet.TripleOf(bad); err == nil {
			t.Errorf("%s: got %v, want an error", bad, tr)
		}
	}
}
