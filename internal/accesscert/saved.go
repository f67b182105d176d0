// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

// save writes the key, followed by the certificate and the CAs.
func (k *Keeper) save(h *held) error {
	data, err := encodeKey(h.cert.PrivateKey)
	if err != nil {
		return err
	}
	data = append(data, encodeCerts(h.cert.Certificate...)...)
	for _, ca := range h.cas {
		data = append(data, encodeCerts(ca.Raw)...)
	}
	if err := os.MkdirAll(filepath.Dir(k.options.File), 0o700); err != nil {
		return fmt.Errorf("save the certificate: %w", err)
	}
	return atomicfile.Write(k.options.File, data, 0o600)
}

// clean removes what an agent that crashed while it saved left behind.
func (k *Keeper) clean() {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(k.options.File), atomicfile.TempPrefix+"*"))
	if err != nil {
		return // only a bad pattern
	}
	for _, path := range left {
		os.Remove(path)
	}
}

// load reads what save wrote. The error is os.ErrNotExist if there is nothing.
func (k *Keeper) load() (*held, error) {
	f, err := os.Open(k.options.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSaved))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k.options.File, err)
	}
	_, chain := pem.Decode(data)
	certs, err := decodeCerts(chain)
	if err != nil {
		return nil, err
	}
	key, err := decodeKey(data, certs[0])
	if err != nil {
		return nil, err
	}
	return k.check(key, chain)
}
