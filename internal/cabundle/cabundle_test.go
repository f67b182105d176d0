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
