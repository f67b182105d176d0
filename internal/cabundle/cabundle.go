// SPDX-License-Identifier: Apache-2.0

// Package cabundle judges the file of certificates that a guest is to trust,
// before it is handed to the guest: whether it is one, and whether there is
// something in it that no guest should get. It is pure, verifies no signature
// and no date, and takes no side on whom a guest should trust. Its errors tell
// nothing of the content.
package cabundle

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

const (
	// MaxSize is the most bytes that a file may have.
	MaxSize = 1 << 20
	// MaxCertificates is the most certificates that it may have; the lists of
	// public authorities have some 150.
	MaxCertificates = 512
)

const certificate = "CERTIFICATE"

var (
	blockBegin = []byte("-----BEGIN ")
	keyWords   = []byte("PRIVATE KEY-----")
)

// Check is nil for a PEM file of X.509 certificates: at least one, and no other
// block. Text around the blocks is allowed, as the usual lists have names
// there.
func Check(data []byte) error {
	switch {
	case len(data) > MaxSize:
		return fmt.Errorf("has %d bytes, more than the %d that are taken", len(data), MaxSize)
	case bytes.Contains(data, keyWords):
		return errors.New("has a private key in it; it would be readable in the guest, so name a file with the certificates alone")
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
		// What pem.Decode passes over, other programs may read.
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
		return errors.New("has no certificate in PEM form in it")
	}
	return nil
}

// checkBlock judges the number-th block.
func checkBlock(block *pem.Block, number int) error {
	switch {
	case block.Type != certificate:
		return fmt.Errorf("has a block in it that is no %s (the %d. block); name a file with the certificates alone", certificate, number)
	case len(block.Headers) > 0:
		return fmt.Errorf("certificate %d has PEM headers, with which some programs pass over it; remove them", number)
	case number > MaxCertificates:
		return fmt.Errorf("has more than %d certificates", MaxCertificates)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		// Why not, may quote what is in it.
		return fmt.Errorf("certificate %d is no X.509 certificate", number)
	}
	return nil
}
