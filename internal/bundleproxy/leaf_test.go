// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestLeaves checks that each certificate is for its host only, that it is renewed in
// time, and that a guest cannot make the bundle keep any number.
func TestLeaves(t *testing.T) {
	ca := newCA(t, "bottle")
	l, err := newLeaves(ca)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l.now = func() time.Time { return now }
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	long := strings.Repeat("a.", 60) + "example.com"
	for _, host := range []string{"api.example.com", "203.0.113.10", "2001:db8::1", long} {
		c, err := l.get(host)
		if err != nil {
			t.Fatal(err)
		}
		opts := x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: now}
		if strings.Contains(host, ":") {
			opts.DNSName = "[" + host + "]"
		}
		if _, err := c.Leaf.Verify(opts); err != nil {
			t.Errorf("%s: got %v, want a valid certificate", host, err)
		}
		opts.DNSName = "evil.example.com"
		if _, err := c.Leaf.Verify(opts); err == nil || c.Leaf.IsCA {
			t.Errorf("%s: got a certificate that is valid for another host", host)
		}
		if again, err := l.get(host); err != nil || again != c {
			t.Errorf("%s: got another certificate, %v, want the same again", host, err)
		}
	}
	first, _ := l.get("api.example.com")
	now = now.Add(leafValidity - leafRenew + time.Minute)
	if second, err := l.get("api.example.com"); err != nil || second == first || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Errorf("after half of its life: got %v, want a new certificate", err)
	}
	for i := range 2 * maxLeaves {
		if _, err := l.get(fmt.Sprintf("h%d.example.com", i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(l.byHost); got > maxLeaves {
		t.Errorf("kept: got %d certificates, want at most %d", got, maxLeaves)
	}
}

// TestPublicRoots checks that the public authorities are there, and that a broken file of
// further ones changes nothing.
func TestPublicRoots(t *testing.T) {
	path := t.TempDir() + "/upstream-ca.pem"
	r := newRoots(path)
	if changed, err := r.poll(); !changed || err != nil {
		t.Errorf("missing file: got %v, %v, want no error", changed, err)
	}
	public := len(r.pool().Subjects()) //nolint:staticcheck // not the system's
	if public < 100 {
		t.Fatalf("public authorities: got %d, want at least 100", public)
	}
	writeNew(t, path, []byte(pemOf(newCA(t, "company").Certificate.Raw)))
	if changed, err := r.poll(); !changed || err != nil || len(r.pool().Subjects()) != public+1 { //nolint:staticcheck // not the system's
		t.Errorf("file: got %v, %v, want one more authority", changed, err)
	}
	for _, broken := range []string{"", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		writeNew(t, path, []byte(broken))
		if changed, err := r.poll(); changed || err == nil || len(r.pool().Subjects()) != public+1 { //nolint:staticcheck // not the system's
			t.Errorf("%q: got %v, %v, want an error and no change", broken, changed, err)
		}
	}
}
