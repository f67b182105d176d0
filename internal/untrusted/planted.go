// SPDX-License-Identifier: Apache-2.0

package untrusted

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxListed bounds how much of a folder RemovePlanted looks through. Whoever
// puts more there must not make each look slower.
const maxListed = 4096

// RemovePlanted removes from the folder name of dir what a program that opens
// files there by their names would wait for or be led away by: links, FIFOs and
// devices. Regular files, folders and sockets stay. It looks at the names that
// matter, and at a bounded number of others.
func RemovePlanted(dir, name string, matter []string) error {
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
		return nil // empty, or io.EOF, which says the same
	}
	if err != nil {
		return err
	}
	for _, file := range append(names, matter...) {
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
