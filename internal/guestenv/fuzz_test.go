// SPDX-License-Identifier: Apache-2.0

package guestenv_test

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"botbottle.dev/bottle-operator/internal/guestenv"
)

var nameRule = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)

// FuzzBuild checks that Build either returns every variable once, sorted by name
// and with its value, or an error that names an invalid variable and contains no
// value.
func FuzzBuild(f *testing.F) {
	f.Add("A", "1", "B", "2", false)
	f.Add("HTTPS_PROXY", "x", "no_proxy", "y", true)
	f.Add("A", "1", "A", "2", false)
	f.Add("A=B", "\x00", "1", "\xff", true)
	f.Add("", " \n", "_", "\u2028\u0085", false)
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, secret2 bool) {
		user := []guestenv.Var{{Name: name1, Value: value1}, {Name: name2, Value: value2, Secret: secret2}}
		got, err := guestenv.Build(bundleIP, "/ca.pem", user)

		bad := name1 == name2
		for _, v := range user {
			bad = bad || !nameRule.MatchString(v.Name) || strings.Contains(v.Value, "\x00") ||
				len(v.Name+"="+v.Value+"\x00") > 131072 || !v.Secret && !utf8.ValidString(v.Value)
		}
		if bad != (err != nil) {
			t.Fatalf("got %v, want an error: %v", err, bad)
		}
		if err != nil {
			var v *guestenv.VarError
			if !errors.As(err, &v) || v.Name != name1 && v.Name != name2 {
				t.Fatalf("got %v, want an error that names a variable", err)
			}
			// The text depends only on the length of a value: it is the same for
			// another value that is valid or invalid in the same way.
			if !strings.Contains(value1, "\x00") && utf8.ValidString(value1) {
				user[0].Value = strings.Repeat("v", len(value1))
				if _, other := guestenv.Build(bundleIP, "/ca.pem", user); other == nil || other.Error() != err.Error() {
					t.Fatalf("got %q, and %v for another value, want the same text", err, other)
				}
			}
			return
		}
		if !slices.IsSortedFunc(got, func(a, b guestenv.Var) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatalf("got %v, want it sorted by name", got)
		}
		for _, v := range user {
			if !slices.Contains(got, v) {
				t.Fatalf("got %v, want it to contain %v", got, v)
			}
		}
		for i := 1; i < len(got); i++ {
			if got[i].Name == got[i-1].Name {
				t.Fatalf("got %q twice", got[i].Name)
			}
		}
	})
}
