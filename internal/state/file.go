// SPDX-License-Identifier: Apache-2.0

package state

import (
	"io/fs"
	"os"
)

// ensureDir makes a directory with exactly this mode, regardless of the umask.
func ensureDir(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm() == mode {
		return nil
	}
	return os.Chmod(path, mode)
}
