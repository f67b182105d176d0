// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/utils/ptr"
)

func TestCheckRequest(t *testing.T) {
	p256, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	type request struct {
		x509.CertificateRequest
		key  crypto.Signer
		spec certificatesv1.CertificateSigningRequestSpec
	}
	encode := func(r *request) []byte {
		t.Helper()
		der, err := x509.CreateCertificateRequest(rand.Reader, &r.CertificateRequest, r.key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: der})
	}
	forged := encode(&request{key: p256, CertificateRequest: x509.CertificateRequest{DNSNames: []string{AgentDNSName(testNode)}}})
	block, _ := pem.Decode(forged)
	block.Bytes[len(block.Bytes)-1] ^= 1
	for name, tc := range map[string]struct {
		change func(*request)
		want   string // in the error; "" means that it is granted
		life   time.Duration
	}{
		"as the agent makes it": {func(*request) {}, "", leafLife},
		"Ed25519":               {func(r *request) { r.key = ed }, "", leafLife},
		"an hour":               {func(r *request) { r.spec.ExpirationSeconds = ptr.To[int32](3600) }, "", time.Hour},
		"a year":                {func(r *request) { r.spec.ExpirationSeconds = ptr.To[int32](365 * 24 * 3600) }, "", leafLife},
		"a negative life":       {func(r *request) { r.spec.ExpirationSeconds = ptr.To[int32](-1) }, "", minLife},

		"another user":       {func(r *request) { r.spec.Username = "system:serviceaccount:" + testNamespace + ":bottle-manager" }, "ServiceAccount bottle-agent", 0},
		"another namespace":  {func(r *request) { r.spec.Username = "system:serviceaccount:tenant:bottle-agent" }, "ServiceAccount bottle-agent", 0},
		"no node":            {func(r *request) { r.spec.Extra = nil }, "not bound", 0},
		"an empty node":      {func(r *request) { r.spec.Extra[nodeNameKey] = []string{""} }, "not bound", 0},
		"two nodes":          {func(r *request) { r.spec.Extra[nodeNameKey] = []string{testNode, "node-b"} }, "not bound", 0},
		"another node":       {func(r *request) { r.DNSNames = []string{AgentDNSName("node-b")} }, "DNS name is not", 0},
		"in upper case":      {func(r *request) { r.DNSNames = []string{strings.ToUpper(AgentDNSName(testNode))} }, "DNS name is not", 0},
		"a wildcard":         {func(r *request) { r.DNSNames = []string{"*" + agentDomain} }, "DNS name is not", 0},
		"the manager's name": {func(r *request) { r.DNSNames = []string{"bottle-manager-access.bottle-system.svc"} }, "DNS name is not", 0},
		"two names":          {func(r *request) { r.DNSNames = append(r.DNSNames, AgentDNSName("node-b")) }, "one DNS name", 0},
		"no name":            {func(r *request) { r.DNSNames = nil }, "one DNS name", 0},
		"an IP address":      {func(r *request) { r.IPAddresses = []net.IP{{10, 0, 0, 1}} }, "one DNS name", 0},
		"an email address":   {func(r *request) { r.EmailAddresses = []string{"a@example.com"} }, "one DNS name", 0},
		"a URI":              {func(r *request) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, "one DNS name", 0},
		"a CA": {func(r *request) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}, "other names or extensions", 0},
		"a subject":  {func(r *request) { r.Subject.CommonName = ManagerName }, "subject", 0},
		"P-384":      {func(r *request) { r.key = p384 }, "P-256", 0},
		"RSA":        {func(r *request) { r.key = rsaKey }, "P-256", 0},
		"client":     {func(r *request) { r.spec.Usages = append(r.spec.Usages, certificatesv1.UsageClientAuth) }, "usages", 0},
		"one usage":  {func(r *request) { r.spec.Usages = r.spec.Usages[:1] }, "usages", 0},
		"same twice": {func(r *request) { r.spec.Usages = append(r.spec.Usages, r.spec.Usages[0]) }, "usages", 0},

		"not PEM":       {func(r *request) { r.spec.Request = []byte("x") }, "PEM", 0},
		"a certificate": {func(r *request) { r.spec.Request = pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: block.Bytes}) }, "PEM", 0},
		"not a request": {func(r *request) {
			r.spec.Request = pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: []byte("x")})
		}, "parsed", 0},
		"two requests": {func(r *request) { r.spec.Request = append(encode(r), encode(r)...) }, "PEM", 0},
		"too long":     {func(r *request) { r.spec.Request = append(encode(r), make([]byte, maxRequest)...) }, "4096", 0},
		"another's sign": {func(r *request) {
			r.spec.Request = pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: block.Bytes})
		}, "signed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &request{key: p256, CertificateRequest: x509.CertificateRequest{DNSNames: []string{AgentDNSName(testNode)}}}
			r.spec = certificatesv1.CertificateSigningRequestSpec{
				Username: "system:serviceaccount:" + testNamespace + ":bottle-agent",
				Extra:    map[string]certificatesv1.ExtraValue{nodeNameKey: {testNode}},
				Usages:   slices.Clone(agentUsages),
			}
			tc.change(r)
			if r.spec.Request == nil {
				r.spec.Request = encode(r)
			}
			got, err := checkRequest(testNamespace, r.spec)
			switch {
			case tc.want == "" && (err != nil || got.node != testNode || got.life != tc.life):
				t.Errorf("got %+v, %v, want it granted for %s", got, err, tc.life)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// A signed certificate is for one server and cannot sign.
func TestSignedCertificate(t *testing.T) {
	now := time.Now()
	ca, err := newIssuer(now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.issue(leaf{dnsNames: []string{AgentDNSName(testNode)}, usage: x509.ExtKeyUsageServerAuth, life: 90 * 24 * time.Hour}, now)
	if err != nil {
		t.Fatal(err)
	}
	l := cert.Leaf
	if l.IsCA || l.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(l.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) || l.Subject.CommonName != "" {
		t.Errorf("got CA %t, usages %v %v, subject %s, want a server", l.IsCA, l.KeyUsage, l.ExtKeyUsage, l.Subject)
	}
	if life := l.NotAfter.Sub(now); life > leafLife {
		t.Errorf("got a life of %s, want %s at most", life, leafLife)
	}
	late := ca.cert.NotAfter.Add(-time.Hour)
	if cert, err = ca.issue(managerLeaf, late); err != nil || cert.Leaf.NotAfter.After(ca.cert.NotAfter) {
		t.Errorf("got a certificate until %s (%v), want it to end with the CA", cert.Leaf.NotAfter, err)
	}
}
