// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/egress"
)

func TestDenials(t *testing.T) {
	var d egress.Denials
	if got := d.List(); got != nil {
		t.Errorf("none: got %q, want nil", got)
	}
	for _, target := range []struct {
		host string
		port uint16
	}{
		{"first.example.com", 443}, {"203.0.113.9", 22}, {"2001:db8::1", 443}, {"[2001:db8::2]", 443}, {"", 443},
		{"two words\n.example.com", 80}, {"\u202eelgoog.com", 80}, {strings.Repeat("ä", 40), 1}, {"FIRST.example.com.", 443}, {"first.example.com", 80},
	} {
		d.Add(target.host, target.port)
	}
	want := []string{
		"first.example.com:80", "first.example.com:443", strings.Repeat(`\u00e4`, 10) + "....:1", `\u202eelgoog.com:80`,
		`two\x20words\n.example.com:80`, "[2001:db8::2]:443", "[2001:db8::1]:443", "203.0.113.9:22",
	}
	if got := d.List(); !slices.Equal(got, want) {
		t.Errorf("list: got %q, want %q", got, want)
	}
	for i := range 40 {
		d.Add(fmt.Sprintf("h%d.example.com", i), 443)
	}
	got := d.List()
	if len(got) != egress.MaxDenials || got[0] != "h39.example.com:443" || got[15] != "h24.example.com:443" {
		t.Errorf("after 40 more: got %q, want the last 16, most recent first", got)
	}
	got[0] = "changed"
	if d.List()[0] == "changed" {
		t.Error("list: got the internal slice, want a copy")
	}
}

func TestPrintable(t *testing.T) {
	for _, tt := range []struct {
		text string
		most int
		want string
	}{
		{"plain text", 64, "plain text"},
		{"tab\there", 64, `tab\there`},
		{`say "x" \ y`, 64, `say "x" \ y`},
		{"\x00\x1b[31m\x7f\xff", 64, `\x00\x1b[31m\x7f\xff`},
		{"bücher🍾", 64, `b\u00fccher\U0001f37e`},
		{"abcdef", 3, "abc"},
		{"ab\ncd", 3, "ab"}, // no partial escape, and nothing after it
		{"", 3, ""},
		{"x", 0, ""},
	} {
		if got := egress.Printable(tt.text, tt.most); got != tt.want {
			t.Errorf("%q, at most %d: got %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}

// FuzzDenials: whatever a guest requests, the list is short, and each entry
// fits its place in the status and is one word of printable ASCII.
func FuzzDenials(f *testing.F) {
	f.Add("api.example.com", "[::1]", uint16(443), uint8(3))
	f.Add("\x00\n\u202e ", strings.Repeat("\U0001f37e", 30), uint16(65535), uint8(40))
	f.Add(strings.Repeat("a", 300), "fe80::1%"+strings.Repeat("z", 80), uint16(0), uint8(17))
	f.Fuzz(func(t *testing.T, one, two string, port uint16, times uint8) {
		var d egress.Denials
		for i := range int(times) + 1 {
			d.Add(one, port+uint16(i))
			d.Add(two, port)
		}
		list := d.List()
		if len(list) > egress.MaxDenials {
			t.Fatalf("got %d entries, want at most %d", len(list), egress.MaxDenials)
		}
		for i, text := range list {
			if len(text) > 96 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Fatalf("got %q, want at most 96 characters of printable ASCII without spaces", text)
			}
			if slices.Contains(list[:i], text) {
				t.Fatalf("got %q twice in %q", text, list)
			}
		}
		shown := egress.PrintableHost(one)
		if len(shown) > egress.MaxShownHost || egress.PrintableHost(shown) != shown {
			t.Fatalf("host %q: got %q, want at most %d characters that do not change again", one, shown, egress.MaxShownHost)
		}
	})
}
