// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"botbottle.dev/bottle-operator/internal/host"
)

// archivesDir is smolvm's cache of image archives.
const archivesDir = ".cache/smolvm-image-archives"

// cleanHome makes smolvm's home safe for a call of smolvm: see removePlanted and
// tighten.
func (d *Driver) cleanHome() error {
	if err := d.removePlanted(); err != nil {
		return err
	}
	if err := d.tighten(); err != nil {
		return fmt.Errorf("smolvm's home: %w: %w", host.ErrUnavailable, err)
	}
	return nil
}

// tighten lets the users that VMMs run as traverse smolvm's folders but not list
// them: smolvm makes them with mode 0755, and a VMM that was taken over could see
// the node's other machines and images. A VMM opens everything by a path that it
// was given. The folder of a machine that has not started yet belongs to root and
// is closed; at its start, smolvm gives it to the VMM's user.
//
// Only root can write to the folders above, so names in them can be trusted.
func (d *Driver) tighten() error {
	const list, enter = 0o066, 0o077
	for _, parent := range []string{".local/share", ".config", ".cache", ".cache/smolvm", archivesDir} {
		if err := d.restrict(parent, list); err != nil {
			return err
		}
	}
	return d.restrict(vmsDir, enter)
}

// restrict removes bits from the modes of root's folders in a folder below
// smolvm's home.
func (d *Driver) restrict(parent string, bits fs.FileMode) error {
	parent = filepath.Join(d.opts.Home, parent)
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		remove := bits
		if e.Name() == sharedDir { // machines use what is in it
			remove = 0o066
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != uint32(os.Geteuid()) || info.Mode()&remove == 0 {
			continue
		}
		if err := os.Chmod(filepath.Join(parent, e.Name()), info.Mode().Perm()&^remove); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
