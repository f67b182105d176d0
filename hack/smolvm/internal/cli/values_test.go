// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"
	"time"
)

func TestParseCIDR(t *testing.T) {
	for in, want := range map[string]string{
		"192.168.44.2": "192.168.44.2/32", "192.168.044.002/32": "192.168.44.2/32", "192.168.44.2/24": "192.168.44.2/24",
		"0.0.0.0/0": "0.0.0.0/0", "fd00::1": "fd00::1/128", "fd00::1/64": "fd00::1/64",
	} {
		if got, err := parseCIDR(in); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "nope", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/32:443", " 1.2.3.4/32 ", "1.2.3", "fe80::1%eth0", "::1/129"} {
		if got, err := parseCIDR(in); err == nil {
			t.Errorf("%q: got %q, want an error", in, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "5sec": 5 * time.Second, "1h30m": 90 * time.Minute, "200ms": 200 * time.Millisecond, "1 min 5 s": 65 * time.Second,
	} {
		if got, err := parseDuration(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "5", "abc", "5x", "-5s", "99999999999s"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
	if checkDuration("0s") == nil {
		t.Error("0s: got no error, want one")
	}
}

func TestErrorCodes(t *testing.T) {
	for want, err := range map[string]error{
		`{"error":{"code":"NOT_FOUND","message":"vm not found: nope"}}`:                                  notFound("nope"),
		`{"error":{"code":"CONFIG_ERROR","message":"config operation failed: x: <a> & \"b\""}}`:          configError("x", `<a> & "b"`),
		`{"error":{"code":"SMOLVM_ERROR","message":"agent operation failed: connect: refused\nreally"}}`: agentError("connect", "refused\nreally"),
	} {
		if got := errorJSON(err); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestCallLogHidesValues(t *testing.T) {
	got := withoutValues([]string{"machine", "exec", "-e", "A=1", "-eB=2", "--env=C=3", "--env", "D=4", "--name", "e=5", "--", "-e", "F=6"})
	want := []string{"machine", "exec", "-e", "A=…", "-eB=…", "--env=C=…", "--env", "D=…", "--name", "e=5", "--", "-e", "F=6"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("word %d: got %q, want %q", i, got[i], want[i])
		}
	}
}
