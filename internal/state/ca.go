// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

const (
	// caFile is the only file in the folder that is mounted into the guest.
	caFile = "bundle.pem"
	// upstreamCAFile is in the folder that is mounted into the bundle.
	upstreamCAFile = "upstream-ca.pem"
)

// CADir is the folder that is mounted into the guest. It is outside the Bottle's
// folder, because the VMM runs as another user, who must be able to read it. Its
// content is not secret.
func (f Folder) CADir() string { return f.caDir }

// WriteCA writes the certificates that the guest should trust. A running machine
// sees the change.
func (f Folder) WriteCA(pem []byte) error {
	if err := ensureDir(filepath.Dir(f.caDir), 0o711); err != nil {
		return fmt.Errorf("certificates of the bundle: %w", err)
	}
	if err := ensureDir(f.caDir, 0o755); err != nil {
		return fmt.Errorf("certificates of the bundle: %w", err)
	}
	_, err := atomicfile.WriteIfChanged(filepath.Join(f.caDir, caFile), pem, 0o644)
	return err
}

// WriteUpstreamCA writes the certificates that the bundle accepts for upstreams beside
// the public ones; nil removes them.
func (f Folder) WriteUpstreamCA(pem []byte) error {
	path := filepath.Join(f.BundleDir(), upstreamCAFile)
	if pem == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("certificates of upstreams: %w", err)
		}
		return nil
	}
	_, err := atomicfile.WriteIfChanged(path, pem, 0o644)
	return err
}

func (f Folder) removeCA() error {
	if err := os.RemoveAll(f.caDir); err != nil {
		return fmt.Errorf("certificates of the bundle: %w", err)
	}
	return nil
}
