// SPDX-License-Identifier: Apache-2.0

package untrusted

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxListed is how many names of a folder RemovePlanted lists. Putting more files
// there must not make each call slower.
const maxListed = 4096

// RemovePlanted removes links, FIFOs and devices from the folder name in dir: a
// program that opens files there by name would follow them or block on them. It
// keeps regular files, folders and sockets. It checks all names in always, and a
// limited number of others.
func RemovePlanted(dir, name string, always []string) error {
	trusted, err := openTrusted(dir)
	if err != nil {
		return err
	}
	defer unix.Close(trusted)
	fd, err := openFolder(trusted, name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir + "/" + name, Err: err}
	}
	folder := os.NewFile(uintptr(fd), dir+"/"+name)
	defer folder.Close()
	names, err := folder.Readdirnames(maxListed)
	if len(names) == 0 {
		return nil // the folder is empty; err is nil or io.EOF
	}
	if err != nil {
		return err
	}
	for _, file := range append(names, always...) {
		if err := removePlanted(fd, file); err != nil {
			return &fs.PathError{Op: "remove from", Path: folder.Name(), Err: err}
		}
	}
	return nil
}

func removePlanted(folder int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(folder, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFSOCK:
		return nil
	}
	_, err = unlink(folder, name)
	return err
}
