// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

// password reads the folder's password. If there is none, it makes one.
func password(dir string) (string, error) {
	path := filepath.Join(dir, "password")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw = []byte(rand.Text() + "\n")
		err = atomicfile.Write(path, raw, 0o600)
	}
	return strings.TrimSpace(string(raw)), err
}
