// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces files as a whole: a reader, or a power cut, meets
// the old content or the new one, and never half of it. It is for folders that
// the caller alone writes in.
//
// Libraries for this leave out that the folder must be synced too, or set no
// mode whatever the umask.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// TempPrefix begins the names of files on their way, in the folder of the file
// to be. Those that a process that died left behind are the caller's to remove.
const TempPrefix = ".tmp-"

// Write writes the file with exactly this mode.
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
		if gone := os.Remove(tmp.Name()); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteIfChanged is Write unless the file is there with this content and mode.
// It says whether it wrote.
func WriteIfChanged(path string, data []byte, mode fs.FileMode) (wrote bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		if info, err := os.Lstat(path); err == nil && info.Mode() == mode {
			return false, nil
		}
	}
	return true, Write(path, data, mode)
}

// Replace makes the open file tmp, of the same folder, the one at path. The
// caller still closes it, and on an error removes it.
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

// syncDir makes a rename last.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
