// SPDX-License-Identifier: Apache-2.0

package subnet_test

import (
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/subnet"
)

func TestParseRefuses(t *testing.T) {
	tests := map[string]struct {
		pool    string
		bits    int
		exclude []string
		want    string // in the error
	}{
		"not a network":          {"192.168.0.0", 24, nil, `subnet pool "192.168.0.0": want a network like`},
		"empty":                  {"", 24, nil, `subnet pool "": want a network like`},
		"host bits":              {"192.168.1.0/16", 24, nil, "subnet pool 192.168.1.0/16: has host bits set, the network is 192.168.0.0/16"},
		"IPv6":                   {"fd00::/48", 64, nil, "subnet pool fd00::/48: not IPv4"},
		"IPv4 written as IPv6":   {"::ffff:10.0.0.0/104", 24, nil, "not IPv4"},
		"shorter than the pool":  {"192.168.0.0/16", 15, nil, "subnet prefix length 15: want 16 (the pool's own, 192.168.0.0/16) to 29"},
		"no room for three":      {"192.168.0.0/16", 30, nil, "subnet prefix length 30"},
		"negative":               {"192.168.0.0/16", -1, nil, "subnet prefix length -1"},
		"pool too small":         {"192.168.0.0/30", 30, nil, "subnet prefix length 30: want 30 (the pool's own, 192.168.0.0/30) to 29"},
		"bad exclusion":          {"192.168.0.0/16", 24, []string{"x"}, `subnet exclusion "x": want a network like`},
		"exclusion's host bits":  {"192.168.0.0/16", 24, []string{"192.168.17.1/24"}, "subnet exclusion 192.168.17.1/24: has host bits set, the network is 192.168.17.0/24"},
		"IPv6 exclusion":         {"192.168.0.0/16", 24, []string{"fd00::/8"}, "subnet exclusion fd00::/8: not IPv4"},
		"all excluded":           {"192.168.0.0/16", 24, []string{"192.168.0.0/17", "192.168.128.0/17"}, "nothing is left"},
		"all excluded by one":    {"192.168.0.0/16", 24, []string{"192.0.0.0/8"}, "nothing is left"},
		"all excluded piecemeal": {"10.0.0.0/29", 29, []string{"10.0.0.3/32"}, "nothing is left"},
		"loopback":               {"127.0.0.0/8", 24, nil, "its network 127.0.0.0/24 overlaps 127.0.0.0/8, which is loopback"},
		"metadata":               {"169.254.0.0/16", 24, nil, "link-local"},
		"multicast":              {"239.0.0.0/8", 24, nil, "multicast"},
		"the whole internet":     {"0.0.0.0/0", 24, nil, "its network 0.0.0.0/24 overlaps 0.0.0.0/8, which means this host"},
		"smolvm's guest link":    {"100.64.0.0/10", 24, nil, "its network 100.96.0.0/24 overlaps 100.96.0.0/30, which is smolvm's own network inside each guest; choose another pool or exclude that network"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := subnet.Parse(tt.pool, tt.bits, tt.exclude)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error: got %v, want one with %q", err, tt.want)
			}
			if p != nil {
				t.Errorf("pool: got %v, want nil", p)
			}
		})
	}
}

func TestCandidates(t *testing.T) {
	tests := map[string]struct {
		pool    string
		bits    int
		exclude []string
		want    []string
	}{
		"one":                   {"10.0.0.0/24", 24, nil, []string{"10.0.0.0/24"}},
		"all of them":           {"10.0.0.0/27", 29, nil, []string{"10.0.0.0/29", "10.0.0.8/29", "10.0.0.16/29", "10.0.0.24/29"}},
		"partly excluded":       {"10.0.0.0/27", 29, []string{"10.0.0.9/32"}, []string{"10.0.0.0/29", "10.0.0.16/29", "10.0.0.24/29"}},
		"first and last":        {"10.0.0.0/27", 29, []string{"10.0.0.24/30", "10.0.0.0/31"}, []string{"10.0.0.8/29", "10.0.0.16/29"}},
		"overlapping, unsorted": {"10.0.0.0/27", 29, []string{"10.0.0.16/28", "10.0.0.8/29", "10.0.0.16/29"}, []string{"10.0.0.0/29"}},
		"elsewhere":             {"10.0.0.0/28", 29, []string{"192.168.17.0/24"}, []string{"10.0.0.0/29", "10.0.0.8/29"}},
		"top of the space":      {"223.255.255.240/28", 29, nil, []string{"223.255.255.240/29", "223.255.255.248/29"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := mustParse(t, tt.pool, tt.bits, tt.exclude...)
			var got []string
			for c := range p.Candidates() {
				got = append(got, c.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("candidates: got %v, want %v", got, tt.want)
			}
			if p.Len() != len(tt.want) {
				t.Errorf("number: got %d, want %d", p.Len(), len(tt.want))
			}
			for c := range p.Candidates() {
				if c.String() != tt.want[0] {
					t.Errorf("first: got %s, want %s", c, tt.want[0])
				}
				break
			}
		})
	}
}

// Picking from a pool of half a billion networks must cost no more than picking
// from one of 254.
func TestHugePool(t *testing.T) {
	p := mustParse(t, "0.0.0.0/0", 29, "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "100.96.0.0/16")
	if got, want := p.Len(), 1<<29-2*1<<21-2*1<<13-1<<26; got != want {
		t.Errorf("candidates: got %d, want %d", got, want)
	}
	occupied := prefixes("1.0.0.0/8", "128.0.0.0/2")
	allocs := testing.AllocsPerRun(10, func() {
		if _, err := p.Pick("demo", occupied, nil); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 50 {
		t.Errorf("allocations of a pick: got %v, want at most 50", allocs)
	}
}

func BenchmarkPick(b *testing.B) {
	p := subnet.Default()
	b.Run("Empty", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Pick("demo", nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Occupied250", func(b *testing.B) {
		occupied := slices.Collect(p.Candidates())[:250]
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Pick("demo", occupied, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Huge", func(b *testing.B) {
		huge := mustParse(b, "10.0.0.0/8", 29)
		occupied := slices.Collect(p.Candidates())
		b.ReportAllocs()
		for b.Loop() {
			if _, err := huge.Pick("demo", occupied, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
