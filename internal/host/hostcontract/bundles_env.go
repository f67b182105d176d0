// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

func bundleEnv(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "68")
	spec.Env = []string{
		"PLAIN=value", "EMPTY=", "QUOTES='\"`$HOME \\n", "LINES=one\ntwo\r\n", "EQUALS=a=b=c", "EMOJI=🍾", "CONTROL=\x01\x1b",
	}
	wantRunning(t, f, spec)
	got := f.Env(t, spec.Owner)
	for _, want := range spec.Env {
		if !slices.Contains(got, want) {
			t.Errorf("env in the container: got %q, want %q in it", got, want)
		}
	}
	const secret = "correct-horse-battery"
	for _, bad := range []string{"=" + secret, secret, "A=" + secret + "\x00"} {
		spec.Env = []string{bad}
		_, err := f.Bundles.EnsureBundle(t.Context(), spec)
		if !errors.Is(err, host.ErrInvalid) || strings.Contains(err.Error(), secret) {
			t.Errorf("env %q: got %v, want ErrInvalid without the value", bad, err)
		}
	}
}
