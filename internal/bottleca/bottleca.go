// SPDX-License-Identifier: Apache-2.0

// Package bottleca makes and reads the certificate authority of one Bottle, with which
// its bundle opens the connections to the hosts that have rules. The guest trusts the
// certificate. The key stays in the node's memory. The package does no I/O, and its
// errors never contain the content of a file.
package bottleca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	// Validity is how long an authority is valid. A machine gets a new one at each
	// start.
	Validity = 365 * 24 * time.Hour
	// backdate is for guests whose clock is behind.
	backdate = time.Hour

	// MaxSize is the maximum size of the PEM file in bytes.
	MaxSize = 16 << 10

	maxUnit = 64 // bytes in a subject's organizational unit, by X.520

	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// CA is an authority. Its key must not be logged or written to a disk.
type CA struct {
	Certificate *x509.Certificate
	Key         *ecdsa.PrivateKey
}

// Format implements fmt.Formatter, so that no verb prints the key.
func (c CA) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, "a Bottle's CA") }

// New returns the PEM file of a new authority for the Bottle: its certificate and its
// key (ECDSA P-256, PKCS#8). Its subject is unique, so that no client mistakes an
// earlier authority of the Bottle for this one. It has no name constraints, because a
// Bottle's rules change while the guest keeps the authority.
func New(namespace, name string, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a Bottle's CA: %w", err)
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, according to crypto/rand
	random[0] &= 0x7f           // a serial number is positive
	unit := namespace + "/" + name
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(random[:]),
		Subject: pkix.Name{
			CommonName:         "Bottle CA " + hex.EncodeToString(random[8:]),
			OrganizationalUnit: []string{unit[:min(len(unit), maxUnit)]},
		},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(Validity),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a Bottle's CA: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("make a Bottle's CA: the key cannot be encoded")
	}
	return append(encode(certificateBlock, der), encode(keyBlock, keyDER)...), nil
}

// Parse returns the authority in a file that New made.
func Parse(data []byte) (CA, error) {
	cert, rest, err := parseCertificate(data)
	if err != nil {
		return CA{}, err
	}
	block, rest := pem.Decode(rest)
	if block == nil || block.Type != keyBlock || len(bytes.TrimSpace(rest)) > 0 {
		return CA{}, errors.New("a Bottle's CA: the file must end with one private key")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() || !key.PublicKey.Equal(cert.PublicKey) {
		return CA{}, errors.New("a Bottle's CA: the key is not that of the certificate")
	}
	return CA{Certificate: cert, Key: key}, nil
}

// CertificateOnly returns the part of a file that New made which the guest may have: the
// certificate.
func CertificateOnly(data []byte) ([]byte, error) {
	cert, _, err := parseCertificate(data)
	if err != nil {
		return nil, err
	}
	return encode(certificateBlock, cert.Raw), nil
}

func parseCertificate(data []byte) (cert *x509.Certificate, rest []byte, err error) {
	if len(data) > MaxSize {
		return nil, nil, fmt.Errorf("a Bottle's CA: the file has more than the limit of %d bytes", MaxSize)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != certificateBlock {
		return nil, nil, errors.New("a Bottle's CA: the file does not begin with a certificate")
	}
	// The parser's error may quote the content.
	if cert, err = x509.ParseCertificate(block.Bytes); err != nil || !cert.IsCA {
		return nil, nil, errors.New("a Bottle's CA: the certificate is not that of an authority")
	}
	return cert, rest, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
