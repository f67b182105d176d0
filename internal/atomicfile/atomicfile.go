// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files atomically: a reader sees either the old or
// the new content, never a part of it, even after a power cut. Only the caller may
// write to the folder.
//
// The known libraries for this do not sync the folder, or do not set the mode
// regardless of the umask.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// TempPrefix is the prefix of temporary files, which are in the same folder as the
// file that they replace. The caller must remove the ones that a crashed process
// left behind.
const TempPrefix = ".tmp-"

// Write writes the file with exactly this mode, regardless of the umask.
func Write(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = Replace(tmp, path, mode)
	}
	err = errors.Join(err, tmp.Close())
	if err != nil {
		if removeErr := os.Remove(tmp.Name()); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteIfChanged is like Write, but does nothing if the file already has this
// content and mode. It reports whether it wrote the file.
func WriteIfChanged(path string, data []byte, mode fs.FileMode) (wrote bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		if info, err := os.Lstat(path); err == nil && info.Mode() == mode {
			return false, nil
		}
	}
	return true, Write(path, data, mode)
}

// Replace renames the open file tmp, which must be in the same folder, to path.
// The caller must still close tmp and, after an error, remove it.
func Replace(tmp *os.File, path string, mode fs.FileMode) error {
	if err := tmp.Chmod(mode); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
