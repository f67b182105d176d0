// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestRulesReload(t *testing.T) {
	w := newWorld(t)
	request := get("http://api.example.com/")
	status := func() int {
		s, _ := w.roundTrip(request)
		return s
	}
	if got := status(); got != 403 {
		t.Fatalf("without a file: got %d, want 403", got)
	}
	w.writeRules("api.example.com:80")
	w.eventually("allowed once the file is there", func() bool { return status() == 200 })
	for _, broken := range []string{"{", `{"version":1,"allow":["http://x"]}`, `{"version":3,"allow":[]}`, ""} {
		before := strings.Count(w.log.String(), "kept the rules")
		w.replaceRules(broken)
		w.eventually("a broken file is noticed", func() bool { return strings.Count(w.log.String(), "kept the rules") > before })
		if got := status(); got != 200 {
			t.Errorf("broken file %q: got %d, want the last rules to apply", broken, got)
		}
	}
	w.writeRules("other.example.com:80")
	w.eventually("denied once the rule is gone", func() bool { return status() == 403 })
	w.writeRules("api.example.com:80")
	w.eventually("allowed again", func() bool { return status() == 200 })
	if err := os.Remove(w.rules); err != nil {
		t.Fatal(err)
	}
	w.eventually("denied once the file is gone", func() bool { return status() == 403 })
}

// TestRevokedTunnelEnds checks that removing a rule closes the connections that
// were opened under it, and no others.
func TestRevokedTunnelEnds(t *testing.T) {
	w := newWorld(t, "api.example.com:443", "203.0.113.77:443")
	revoked, revokedR := w.tunnel("api.example.com:443")
	kept, keptR := w.tunnel("203.0.113.77:443")
	defer revoked.Close()
	defer kept.Close()
	w.writeRules("203.0.113.77:443")
	if _, err := revokedR.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("revoked tunnel: got %v, want EOF", err)
	}
	_, _ = io.WriteString(kept, "GET /x HTTP/1.1\r\nHost: kept\r\n\r\n")
	if status, _ := w.readResponse(keptR); status != 200 {
		t.Errorf("other tunnel: got %d, want 200", status)
	}
}
