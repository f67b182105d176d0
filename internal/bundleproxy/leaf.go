// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/bottleca"
)

const (
	// leafValidity is how long a certificate for a host is valid, and leafBackdate how
	// far back it begins, for guests whose clock is behind.
	leafValidity = 24 * time.Hour
	leafBackdate = time.Hour
	// leafRenew is the remaining time at which a certificate is replaced.
	leafRenew = leafValidity / 2
	// maxLeaves is how many certificates are kept. A rule for all subdomains of a name
	// lets a guest ask for any number.
	maxLeaves = 256
	// maxCommonName is the length of the longest common name, by X.520. A host with a
	// longer name has none: the alternative name says which host it is.
	maxCommonName = 64
)

// leaves issues the certificates that the guest sees, one for each host.
type leaves struct {
	ca  bottleca.CA
	key *ecdsa.PrivateKey // of all certificates
	now func() time.Time

	mu     sync.Mutex
	byHost map[string]*tls.Certificate
}

func newLeaves(ca bottleca.CA) (*leaves, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &leaves{ca: ca, key: key, now: time.Now, byHost: map[string]*tls.Certificate{}}, nil
}

// get returns the certificate for a host in its canonical form.
func (l *leaves) get(host string) (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if c, ok := l.byHost[host]; ok && c.Leaf.NotAfter.Sub(now) > leafRenew {
		return c, nil
	}
	c, err := l.issue(host, now)
	if err != nil {
		return nil, err
	}
	if len(l.byHost) >= maxLeaves {
		for other := range l.byHost {
			delete(l.byHost, other)
			break
		}
	}
	l.byHost[host] = c
	return c, nil
}

func (l *leaves) issue(host string, now time.Time) (*tls.Certificate, error) {
	var serial [16]byte
	_, _ = rand.Read(serial[:]) // never fails, according to crypto/rand
	serial[0] &= 0x7f           // a serial number is positive
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:]),
		NotBefore:             now.Add(-leafBackdate),
		NotAfter:              now.Add(leafValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if len(host) <= maxCommonName {
		template.Subject = pkix.Name{CommonName: host}
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, l.ca.Certificate, l.key.Public(), l.ca.Key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, l.ca.Certificate.Raw}, PrivateKey: l.key, Leaf: leaf}, nil
}
