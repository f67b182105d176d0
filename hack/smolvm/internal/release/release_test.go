// SPDX-License-Identifier: Apache-2.0

package release

import "testing"

func TestParse(t *testing.T) {
	for in, want := range map[string]string{"0.8.0": "0.8.0", "1.32.2": "1.32.2", "10.0.11": "10.0.11"} {
		got, err := Parse(in)
		if err != nil || got.String() != want {
			t.Errorf("Parse(%q): got %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "1", "1.2", "v1.2.3", "1.2.3-rc1", "1.2.x", " 1.2.3", "99999.0.0"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q): got %v, want an error", in, got)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		have, since string
		want        bool
	}{
		{"1.32.2", "1.9.1", true}, {"1.9.1", "1.32.2", false}, {"1.9.1", "1.9.1", true}, {"1.9.0", "1.9.1", false},
		{"0.8.0", "", true}, {"2.0.0", "1.99.99", true}, {"0.8.0", "0.8.1", false},
	} {
		if got := MustParse(c.have).AtLeast(c.since); got != c.want {
			t.Errorf("%s at least %q: got %v, want %v", c.have, c.since, got, c.want)
		}
	}
}

func TestCurrentUsesTheEnvironment(t *testing.T) {
	t.Setenv("SMOLVM_STANDIN_VERSION", "0.8.0")
	if got, err := Current(); err != nil || got.String() != "0.8.0" {
		t.Errorf("got %v, %v, want 0.8.0", got, err)
	}
	t.Setenv("SMOLVM_STANDIN_VERSION", "newest")
	if got, err := Current(); err == nil {
		t.Errorf("got %v, want an error for an invalid version", got)
	}
	t.Setenv("SMOLVM_STANDIN_VERSION", "")
	if got, err := Current(); err != nil || got.String() != Reference {
		t.Errorf("got %v, %v, want %s", got, err, Reference)
	}
}
