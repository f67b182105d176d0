// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"encoding/pem"
	"fmt"
	"io"
	"os"
)

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
