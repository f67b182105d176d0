// SPDX-License-Identifier: Apache-2.0

package apienv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// frontProxyFlags makes the certificate with which the API server passes requests on
// to aggregated API servers, and returns its flags for that. The files are in dir.
func frontProxyFlags(dir string) (map[string]string, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "front-proxy-ca"}, caKey)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "front-proxy"},
		NotBefore: ca.NotBefore, NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	certs, err := cert.EncodeCertificates(leaf)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	cas, err := cert.EncodeCertificates(ca)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	flags := map[string]string{
		"requestheader-allowed-names": "front-proxy", "requestheader-username-headers": "X-Remote-User",
		"requestheader-group-headers": "X-Remote-Group", "requestheader-extra-headers-prefix": "X-Remote-Extra-",
	}
	for flag, content := range map[string][]byte{"requestheader-client-ca-file": cas, "proxy-client-cert-file": certs, "proxy-client-key-file": keyPEM} {
		flags[flag] = filepath.Join(dir, flag)
		if err := os.WriteFile(flags[flag], content, 0o600); err != nil {
			return nil, fmt.Errorf("front proxy: %w", err)
		}
	}
	return flags, nil
}
