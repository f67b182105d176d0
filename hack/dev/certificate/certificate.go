// SPDX-License-Identifier: Apache-2.0

// Package certificate makes the TLS certificates of the development cluster's
// simulated servers.
package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

// Load reads the folder's certificate. If there is none, it makes a CA, whose
// certificate is ca.pem, and a certificate for the names. The CA's key is not kept.
// ca.pem is written last: if it exists, so do the other files.
func Load(dir string, names []string) (tls.Certificate, error) {
	chain, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	_, err := os.Stat(filepath.Join(dir, "ca.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		err = create(dir, chain, key, names)
	}
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(chain, key)
}

func create(dir, chainFile, keyFile string, names []string) error {
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "development authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "development server"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, n)
		}
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	rawCA, err := x509.CreateCertificate(rand.Reader, authority, authority, authorityKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	rawLeaf, err := x509.CreateCertificate(rand.Reader, leaf, authority, leafKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path, kind string
		raw        []byte
		mode       os.FileMode
	}{
		{keyFile, "PRIVATE KEY", rawKey, 0o600},
		{chainFile, "CERTIFICATE", rawLeaf, 0o644},
		{filepath.Join(dir, "ca.pem"), "CERTIFICATE", rawCA, 0o644},
	} {
		if err := atomicfile.Write(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.raw}), f.mode); err != nil {
			return err
		}
	}
	return nil
}
