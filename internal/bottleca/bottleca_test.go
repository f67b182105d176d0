// SPDX-License-Identifier: Apache-2.0

package bottleca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/cabundle"
)

var now = time.Date(2026, 11, 29, 16, 0, 0, 0, time.UTC)

func newCA(t *testing.T) []byte {
	t.Helper()
	data, err := bottleca.New("team", strings.Repeat("long-name", 20), now)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAuthoritySignsForAnyHost(t *testing.T) {
	ca, err := bottleca.Parse(newCA(t))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"api.example.com"}, NotBefore: now, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, key.Public(), ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "api.example.com", Roots: roots, CurrentTime: now}); err != nil {
		t.Error(err)
	}
}

func TestCertificate(t *testing.T) {
	ca, err := bottleca.Parse(newCA(t))
	if err != nil {
		t.Fatal(err)
	}
	c := ca.Certificate
	if !c.NotBefore.Equal(now.Add(-time.Hour)) || !c.NotAfter.Equal(now.Add(365*24*time.Hour)) {
		t.Errorf("got valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign || len(c.SubjectKeyId) == 0 {
		t.Errorf("got IsCA %v, path length %d, usage %v, key ID %x", c.IsCA, c.MaxPathLen, c.KeyUsage, c.SubjectKeyId)
	}
	if len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains) > 0 {
		t.Error("the certificate has name constraints")
	}
	if n := len(c.Subject.OrganizationalUnit[0]); n > 64 {
		t.Errorf("the organizational unit has %d bytes", n)
	}
	other, err := bottleca.Parse(newCA(t))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(other.Certificate.RawSubject, c.RawSubject) {
		t.Error("two authorities have the same subject")
	}
}

// TestCertificateOnly: what a guest gets passes the check for what a guest may have.
func TestCertificateOnly(t *testing.T) {
	file := newCA(t)
	got, err := bottleca.CertificateOnly(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := cabundle.Check(got); err != nil {
		t.Errorf("the certificate: %v", err)
	}
	if err := cabundle.Check(file); err == nil {
		t.Error("the file with the key passes the check too")
	}
}

func TestParseRefusesWithoutQuoting(t *testing.T) {
	one, two := string(newCA(t)), string(newCA(t))
	cut := strings.Index(one, "-----BEGIN PRIVATE")
	for name, file := range map[string]string{
		"empty":             "",
		"no key":            one[:cut],
		"no certificate":    one[cut:],
		"another one's key": one[:cut] + two[strings.Index(two, "-----BEGIN PRIVATE"):],
		"more after it":     one + one,
		"too large":         one + strings.Repeat("\n", bottleca.MaxSize),
		"damaged":           strings.Replace(one, one[cut+40:cut+60], "AAAAAAAAAAAAAAAAAAAA", 1),
	} {
		_, err := bottleca.Parse([]byte(file))
		if err == nil {
			t.Errorf("%s: got no error", name)
		} else if strings.Contains(err.Error(), "MII") || len(err.Error()) > 100 {
			t.Errorf("%s: the error may quote the content: %v", name, err)
		}
	}
}

func TestNoVerbPrintsTheKey(t *testing.T) {
	ca, err := bottleca.Parse(newCA(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, ca); got != "a Bottle's CA" {
			t.Errorf("%s prints %.60q", verb, got)
		}
	}
}
