// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Keys of the Secret. The CA in tls.crt signs; the one in next.crt will, once
// everyone trusts it; previous.crt has signed certificates that may still be in use.
const (
	currentCert, currentKey = corev1.TLSCertKey, corev1.TLSPrivateKeyKey
	nextCert, nextKey       = "next.crt", "next.key"
	previousCert            = "previous.crt"
)

// authorities are the CAs in the Secret. Only current is never nil.
type authorities struct {
	current, next *issuer
	previous      *x509.Certificate
}

// bundle returns the CAs that everyone trusts.
func (a *authorities) bundle() []*x509.Certificate {
	out := []*x509.Certificate{a.current.cert}
	if a.next != nil {
		out = append(out, a.next.cert)
	}
	if a.previous != nil {
		out = append(out, a.previous)
	}
	return out
}

func (a *authorities) bundlePEM() []byte {
	var ders [][]byte
	for _, cert := range a.bundle() {
		ders = append(ders, cert.Raw)
	}
	return encodeCerts(ders...)
}

func (a *authorities) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range a.bundle() {
		pool.AddCert(cert)
	}
	return pool
}

// readAuthorities parses the Secret's data. It returns nil if the data has no CA.
func readAuthorities(data map[string][]byte) (*authorities, error) {
	if len(data[currentCert]) == 0 && len(data[currentKey]) == 0 {
		return nil, nil
	}
	current, err := readIssuer(data[currentCert], data[currentKey])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", currentCert, currentKey, err)
	}
	a := &authorities{current: current}
	if len(data[nextCert]) > 0 {
		if a.next, err = readIssuer(data[nextCert], data[nextKey]); err != nil {
			return nil, fmt.Errorf("%s and %s: %w", nextCert, nextKey, err)
		}
	}
	if len(data[previousCert]) > 0 {
		certs, err := decodeCerts(data[previousCert])
		if err != nil || len(certs) != 1 {
			return nil, fmt.Errorf("%s: %w", previousCert, errors.Join(errors.New("want one certificate"), err))
		}
		a.previous = certs[0]
	}
	return a, nil
}

func readIssuer(certPEM, keyPEM []byte) (*issuer, error) {
	certs, err := decodeCerts(certPEM)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 || !certs[0].IsCA {
		return nil, errors.New("want one certificate, of a CA")
	}
	key, err := decodeKey(keyPEM, certs[0])
	if err != nil {
		return nil, err
	}
	return &issuer{cert: certs[0], key: key}, nil
}

// data returns the Secret's data.
func (a *authorities) data() (map[string][]byte, error) {
	out := map[string][]byte{}
	put := func(cert, key string, i *issuer) error {
		pem, err := encodeKey(i.key)
		if err != nil {
			return err
		}
		maps.Copy(out, map[string][]byte{cert: encodeCerts(i.cert.Raw), key: pem})
		return nil
	}
	if err := put(currentCert, currentKey, a.current); err != nil {
		return nil, err
	}
	if a.next != nil {
		if err := put(nextCert, nextKey, a.next); err != nil {
			return nil, err
		}
	}
	if a.previous != nil {
		out[previousCert] = encodeCerts(a.previous.Raw)
	}
	return out, nil
}

// rotate returns what the Secret should hold now, and whether that differs from a,
// which it leaves as it is. It makes
//   - a first CA, also if the current one has expired,
//   - the next CA, at two thirds of the current one's life,
//   - the next CA the current one, once it has been in the bundle long enough,
//
// and forgets the previous CA when it expires.
func rotate(a *authorities, now time.Time) (*authorities, bool, error) {
	if a == nil || !now.Before(a.current.cert.NotAfter) {
		first, err := newIssuer(now)
		if err != nil {
			return nil, false, err
		}
		return &authorities{current: first}, true, nil
	}
	out, changed := *a, false
	if out.previous != nil && !now.Before(out.previous.NotAfter) {
		out.previous, changed = nil, true
	}
	switch {
	case out.next != nil && !now.Before(made(out.next).Add(overlap)):
		out.previous, out.current, out.next, changed = out.current.cert, out.next, nil, true
	case out.next == nil && !now.Before(made(out.current).Add(caLife*2/3)):
		next, err := newIssuer(now)
		if err != nil {
			return nil, false, err
		}
		out.next, changed = next, true
	}
	return &out, changed, nil
}

// made is when a CA was made and put into the bundle.
func made(i *issuer) time.Time { return i.cert.NotBefore.Add(skew) }
