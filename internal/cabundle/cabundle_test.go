// SPDX-License-Identifier: Apache-2.0

package cabundle_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"botbottle.dev/bottle-operator/internal/cabundle"
)

// newCertificate returns a certificate and its key, both as PEM.
func newCertificate(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0), // dates are not checked
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestCheck(t *testing.T) {
	one, key := newCertificate(t)
	two, _ := newCertificate(t)
	block, _ := pem.Decode([]byte(one))
	withHeaders := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes, Headers: map[string]string{"A": "b"}}))
	damaged := strings.Replace(one, "\nM", "\n*", 1)
	for name, tt := range map[string]struct {
		text string
		want string // part of the error; "" for none
	}{
		"one":                   {one, ""},
		"two":                   {one + two, ""},
		"names between":         {"# One\n====\n" + one + "\nTwo, bücher\n" + two + "\nthe end\n", ""},
		"CRLF":                  {strings.ReplaceAll(one, "\n", "\r\n"), ""},
		"no newline at the end": {strings.TrimSpace(one), ""},
		"as many as allowed":    {strings.Repeat(one, cabundle.MaxCertificates), ""},
		"one too many":          {strings.Repeat(one, cabundle.MaxCertificates+1), "more than 512 certificates"},
		"as large as allowed":   {one + strings.Repeat("\n", cabundle.MaxSize-len(one)), ""},
		"too large":             {one + strings.Repeat("\n", cabundle.MaxSize-len(one)+1), "more than the limit of 1048576"},
		"empty":                 {"", "no certificate"},
		"text":                  {"hello", "no certificate"},
		"DER":                   {string(block.Bytes), "no certificate"},
		"key":                   {key, "private key"},
		"key after":             {one + key, "private key"},
		"key before":            {key + one, "private key"},
		"damaged key":           {one + strings.Replace(key, "\nM", "\n*", 1), "private key"},
		"key, old":              {one + encode("RSA PRIVATE KEY", []byte("x")), "private key"},
		"key, encrypted":        {one + encode("ENCRYPTED PRIVATE KEY", []byte("x")), "private key"},
		"key, OpenSSH":          {one + encode("OPENSSH PRIVATE KEY", []byte("x")), "private key"},
		"another block":         {one + encode("PUBLIC KEY", block.Bytes), "not a CERTIFICATE (block 2)"},
		"request":               {encode("CERTIFICATE REQUEST", block.Bytes), "not a CERTIFICATE"},
		"OpenSSL's own":         {encode("TRUSTED CERTIFICATE", block.Bytes), "not a CERTIFICATE"},
		"not X.509":             {one + encode("CERTIFICATE", []byte("nothing")), "certificate 2 is not an X.509"},
		"trailing data":         {encode("CERTIFICATE", append(bytes.Clone(block.Bytes), 0)), "certificate 1 is not an X.509"},
		"headers":               {withHeaders, "PEM headers"},
		"damaged":               {damaged, "damaged"},
		"damaged, then valid":   {damaged + one, "before certificate 1"},
		"valid, then damaged":   {one + damaged, "after certificate 1"},
		"truncated":             {one + two[:len(two)-10], "after certificate 1"},
	} {
		t.Run(name, func(t *testing.T) {
			err := cabundle.Check([]byte(tt.text))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want nil", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestPublicRoots checks that the file keeps what the bundle wrote, trusts each public
// authority once, and passes the check itself.
func TestPublicRoots(t *testing.T) {
	own, _ := newCertificate(t)
	public := publicPEM(t)
	for name, text := range map[string]string{
		"one":                   "# mine\n" + own,
		"no newline at the end": strings.TrimSpace(own),
		"with some of them":     own + public[:len(public)/2][:strings.LastIndex(public[:len(public)/2], "-----BEGIN ")],
		"with all of them":      public + own,
	} {
		t.Run(name, func(t *testing.T) {
			got := cabundle.WithPublicRoots([]byte(text))
			if !bytes.HasPrefix(got, []byte(text)) {
				t.Error("file: got other text before the authorities, want the bundle's own first")
			}
			if err := cabundle.Check(got); err != nil {
				t.Errorf("check: got %v, want nil", err)
			}
			count := map[string]int{}
			pool := x509.NewCertPool()
			for block, rest := pem.Decode(got); block != nil; block, rest = pem.Decode(rest) {
				count[string(block.Bytes)]++
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					t.Fatal(err)
				}
				pool.AddCert(c)
			}
			for der, n := range count {
				if n != 1 {
					c, _ := x509.ParseCertificate([]byte(der))
					t.Errorf("%s: got it %d times, want once", c.Subject, n)
				}
			}
			block, _ := pem.Decode([]byte(own))
			if count[string(block.Bytes)] != 1 {
				t.Error("the bundle's certificate: got none, want it")
			}
			if !bytes.Equal(got, cabundle.WithPublicRoots([]byte(text))) {
				t.Error("a second call: got another file, want the same")
			}
			trusted := 0
			for r := range bundle.Roots() {
				c, err := x509.ParseCertificate(r.Certificate)
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: c.NotBefore.Add(time.Hour)})
				if (err == nil) != (r.Constraint == nil) {
					t.Errorf("%s: got %v, want it trusted if nothing limits it", c.Subject, err)
				}
				if err == nil {
					trusted++
				}
			}
			if trusted < 100 {
				t.Errorf("trusted authorities: got %d, want at least 100", trusted)
			}
		})
	}
}

// publicPEM returns the authorities without a limit.
func publicPEM(t *testing.T) string {
	var all strings.Builder
	for r := range bundle.Roots() {
		if r.Constraint == nil {
			all.WriteString(encode("CERTIFICATE", r.Certificate))
		}
	}
	if all.Len() == 0 {
		t.Fatal("no public authorities")
	}
	return all.String()
}

// FuzzCheck checks that an accepted file is read completely by programs that
// read certificates, and that no error reveals the content.
func FuzzCheck(f *testing.F) {
	one, key := newCertificate(f)
	for _, seed := range []string{one, one + one, one + key, "-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n", "x", one[:40], one + "-----BEGIN "} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := cabundle.Check(data); err != nil {
			if len(err.Error()) > 400 {
				t.Fatalf("error: got %d bytes, want few", len(err.Error()))
			}
			return
		}
		count := 0
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			count++
		}
		if count == 0 || bytes.Count(data, []byte("-----BEGIN ")) != count || !x509.NewCertPool().AppendCertsFromPEM(data) {
			t.Fatalf("got nil for %q, want an error", data)
		}
	})
}
