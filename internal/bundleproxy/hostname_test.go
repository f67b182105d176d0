// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"encoding/hex"
	"strings"
	"testing"
)

// TestKnownSecretInTheHostsName: below a wildcard, a guest chooses the name, which a lookup
// sends to the owner of the domain.
func TestKnownSecretInTheHostsName(t *testing.T) {
	code := hex.EncodeToString([]byte(known)) // too long for one label
	const open, pass = `{"host":"*.example.com:443"}`, `{"host":"*.example.com:443","passSecrets":["env"]}`
	for _, tt := range []struct {
		name, rule, host string
		denied           bool
	}{
		{"as it is", open, strings.ToLower(known) + ".example.com", true},
		{"with other text", open, "x-" + known + "-y.a.example.com", true},
		{"hexadecimal in labels", open, code[:40] + "." + code[40:] + ".example.com", true},
		{"passed", pass, code[:40] + "." + code[40:] + ".example.com", false},
		{"a short value", open, short + ".example.com", false},
		{"no secret", open, "api.example.com", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ow := newOpenedWorld(t, tt.rule)
			status, body := ow.roundTrip(connect(tt.host + ":443"))
			log := ow.log.String()
			refused := status == 403 && strings.Contains(body, "known-secret") || strings.Contains(log, "known-secret")
			if refused != tt.denied {
				t.Errorf("got %d %q, want refused: %t", status, body, tt.denied)
			}
			if !tt.denied {
				return
			}
			if text := strings.ToLower(body + log); status != 403 || strings.Contains(text, strings.ToLower(known)) || strings.Contains(text, code[:40]) {
				t.Errorf("got %d %q, and the log %q, want a refusal without the secret", status, body, log)
			}
			if !strings.Contains(log, `"host":"*.example.com"`) || !strings.Contains(log, `"secret":"env"`) {
				t.Errorf("got the log %q, want the rule's host and the Secret", log)
			}
			ow.mu.Lock()
			defer ow.mu.Unlock()
			if len(ow.lookups) > 0 {
				t.Errorf("got lookups of %v, want none", ow.lookups)
			}
		})
	}
}
