// SPDX-License-Identifier: Apache-2.0

// Package cabundle checks the file of certificates that a guest is to trust
// before the guest gets it: whether the file holds certificates, and whether it
// contains anything that no guest should get. It also adds the public authorities
// to the file. It has no side effects, and verifies no signatures or dates. Its
// errors do not reveal the content.
package cabundle

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	// MaxSize is the maximum size of a file in bytes.
	MaxSize = 1 << 20
	// MaxCertificates is the maximum number of certificates in a file. The
	// lists of public authorities have about 150.
	MaxCertificates = 512
)

const certificate = "CERTIFICATE"

var (
	blockBegin = []byte("-----BEGIN ")
	keyWords   = []byte("PRIVATE KEY-----")
)

// Check returns nil if data is a PEM file with at least one X.509 certificate
// and no other block. Text around the blocks is allowed, because the usual
// lists have names there.
func Check(data []byte) error {
	switch {
	case len(data) > MaxSize:
		return fmt.Errorf("has %d bytes, more than the limit of %d", len(data), MaxSize)
	case bytes.Contains(data, keyWords):
		return errors.New("contains a private key, which would be readable in the guest; name a file with only the certificates")
	}
	count := 0
	rest := data
	for {
		var block *pem.Block
		before := rest
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		count++
		// Other programs may read a block that pem.Decode skips.
		if bytes.Count(before[:len(before)-len(rest)], blockBegin) != 1 {
			return fmt.Errorf("is damaged: a block before certificate %d cannot be read", count)
		}
		if err := checkBlock(block, count); err != nil {
			return err
		}
	}
	switch {
	case bytes.Contains(rest, blockBegin):
		return fmt.Errorf("is damaged: a block after certificate %d cannot be read", count)
	case count == 0:
		return errors.New("contains no certificate in PEM form")
	}
	return nil
}

// checkBlock checks the block with this number, counted from 1.
func checkBlock(block *pem.Block, number int) error {
	switch {
	case block.Type != certificate:
		return fmt.Errorf("contains a block that is not a %s (block %d); name a file with only the certificates", certificate, number)
	case len(block.Headers) > 0:
		return fmt.Errorf("certificate %d has PEM headers, which make some programs skip it; remove them", number)
	case number > MaxCertificates:
		return fmt.Errorf("has more than %d certificates", MaxCertificates)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		// The parser's error may quote the content.
		return fmt.Errorf("certificate %d is not an X.509 certificate", number)
	}
	return nil
}
