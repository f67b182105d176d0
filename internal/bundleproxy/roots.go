// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// maxUpstreamCA is the maximum size of the file with further authorities in bytes.
const maxUpstreamCA = 1 << 20

// roots are the authorities that the bundle accepts for upstreams: Mozilla's, from the
// module golang.org/x/crypto/x509roots, and those of a file. They are parsed when they
// are needed for the first time, because most bundles open no connection and a pool takes
// memory.
type roots struct {
	path string // of the file; "" for none

	mu    sync.Mutex
	state fileState
	extra []byte // PEM
	made  *x509.CertPool
}

func newRoots(path string) *roots { return &roots{path: path} }

// poll reads the file if it has changed, and reports whether it did so. A missing file is
// an empty one. With an error, the authorities stay as they were.
func (r *roots) poll() (bool, error) {
	if r.path == "" {
		return false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.path)
	state := stateOf(info, err)
	if state == r.state {
		return false, nil
	}
	r.state = state
	var data []byte
	if !errors.Is(err, fs.ErrNotExist) {
		if data, err = readBounded(r.path, maxUpstreamCA); err != nil {
			return false, err
		}
		if err := checkCertificates(data); err != nil {
			return false, err
		}
	}
	r.extra, r.made = data, nil
	return true, nil
}

// pool returns the authorities.
func (r *roots) pool() *x509.CertPool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.made == nil {
		r.made = publicRoots()
		r.made.AppendCertsFromPEM(r.extra)
	}
	return r.made
}

// publicRoots returns the public authorities. The pool parses each of them again when
// it needs it, and keeps only that one.
func publicRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
			continue
		}
		if cert, err := x509.ParseCertificate(root.Certificate); err == nil {
			pool.AddCertWithConstraint(cert, root.Constraint)
		}
	}
	return pool
}

func checkCertificates(data []byte) error {
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			return errors.New("a block of the PEM file is no certificate")
		}
		n++
	}
	if n == 0 {
		return errors.New("the PEM file has no certificate")
	}
	return nil
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("the file has more than %d bytes", limit)
	}
	return data, err
}
