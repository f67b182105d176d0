// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

// TestDecisionLog checks that there is one line per decision, and that it
// contains only host and port.
func TestDecisionLog(t *testing.T) {
	w := newWorld(t, "api.example.com:80")
	const secret = "s3cret"
	w.roundTrip("GET http://user:" + secret + "@api.example.com/" + secret + "?k=" + secret + " HTTP/1.1\r\nHost: " + secret + "\r\nAuthorization: " + secret + "\r\n\r\n")
	w.roundTrip(get("http://" + strings.Repeat("a", 300) + ".example.com/" + secret))
	w.roundTrip("CONNECT evil\"%e2%80%ae.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
	text := w.log.String()
	if strings.Contains(text, secret) {
		t.Errorf("log: got a secret in it: %s", text)
	}
	var lines []logLine
	for line := range strings.Lines(text) {
		var l logLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if _, err := time.Parse(time.RFC3339Nano, l.Time); err != nil {
			t.Errorf("time: %v", err)
		}
		if l.Decision != "" {
			l.Time = ""
			lines = append(lines, l)
		}
	}
	const noRule = "no egress rule allows this host and port"
	want := []logLine{
		{Decision: "allow", Host: "api.example.com", Port: 80, Reason: "rule api.example.com:80"},
		{Decision: "deny", Host: strings.Repeat("a", 64), Port: 80, Cause: egress.CauseNoRule, Reason: noRule},
		{Decision: "deny", Host: `evil"\u202e.example.com`, Port: 443, Cause: egress.CauseNoRule, Reason: noRule},
	}
	if fmt.Sprint(lines) != fmt.Sprint(want) {
		t.Errorf("log: got %+v, want %+v", lines, want)
	}
}
