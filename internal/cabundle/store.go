// SPDX-License-Identifier: Apache-2.0

package cabundle

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"software.sslmate.com/src/go-pkcs12"
)

// Store returns the certificates of a file that Check accepted as a PKCS#12 store of
// trusted authorities, for JVMs, which read no PEM. Two stores of the same certificates
// differ, because each has a random salt. The encryption is the one that every JVM can
// read: nothing in the store is secret.
func Store(data []byte, password string) ([]byte, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d is not an X.509 certificate", len(certs)+1)
		}
		certs = append(certs, cert)
	}
	store, err := pkcs12.LegacyDES.EncodeTrustStore(certs, password)
	if err != nil {
		return nil, errors.New("the certificates cannot be put into a PKCS#12 store")
	}
	return store, nil
}
