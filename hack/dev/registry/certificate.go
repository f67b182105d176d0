// SPDX-License-Identifier: Apache-2.0

package main

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
	"strings"
	"time"
)

// certificate reads the folder's certificate. If there is none, it makes a CA
// and a certificate for the names. The CA's key is not kept. ca.pem is written
// last: if it exists, so do the other files.
func certificate(dir string, names []string) (tls.Certificate, error) {
	chain, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	_, err := os.Stat(filepath.Join(dir, "ca.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		err = makeCertificate(dir, chain, key, names)
	}
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(chain, key)
}

func makeCertificate(dir, chainFile, keyFile string, names []string) error {
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "development registry authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "development registry"},
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
		if err := writeAtomically(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.raw}), f.mode); err != nil {
			return err
		}
	}
	return nil
}

// password reads the folder's password. If there is none, it makes one.
func password(dir string) (string, error) {
	path := filepath.Join(dir, "password")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw = []byte(rand.Text() + "\n")
		err = writeAtomically(path, raw, 0o600)
	}
	return strings.TrimSpace(string(raw)), err
}

// writeAtomically writes a file so that readers see all of it or none.
func writeAtomically(path string, content []byte, mode os.FileMode) error {
	if err := os.WriteFile(path+".new", content, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
