// SPDX-License-Identifier: Apache-2.0

package untrusted

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// batch is how many names of a folder are read at a time.
const batch = 512

// RemoveAll removes name, which is directly below dir, with everything in it. It
// returns nil if name does not exist. It follows no link and enters no other file
// system: if something is mounted in name, it fails. It needs only three
// descriptors however deep the folders are. os.RemoveAll needs one for each
// level, so that a million nested folders would use up all descriptors of the
// process.
//
// It can be called again after an error or a crash. Nobody else should still
// create files in name; otherwise RemoveAll may run until ctx ends.
func RemoveAll(ctx context.Context, dir, name string) error {
	folder, err := openTrusted(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(folder)
	if err := removeAll(ctx, folder, name); err != nil {
		return &fs.PathError{Op: "remove", Path: dir + "/" + name, Err: err}
	}
	return nil
}

func removeAll(ctx context.Context, folder int, name string) error {
	if isFolder, err := unlink(folder, name); err != nil || !isFolder {
		return err
	}
	top, err := openFolder(folder, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(top)
	moved := 0
	err = eachName(ctx, top, func(name string) error {
		isFolder, err := unlink(top, name)
		if err != nil || !isFolder {
			return err
		}
		return flatten(ctx, top, name, &moved)
	})
	if err != nil {
		return err
	}
	return rmdir(folder, name)
}

// flatten removes the folder name from top. It first moves the non-empty folders
// in it up into top, where a later call removes them.
func flatten(ctx context.Context, top int, name string, moved *int) error {
	sub, err := openFolder(top, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	err = eachName(ctx, sub, func(child string) error {
		isFolder, err := unlink(sub, child)
		if err != nil || !isFolder {
			return err
		}
		if err := rmdir(sub, child); !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return moveUp(sub, child, top, moved)
	})
	if err != nil {
		return err
	}
	return rmdir(top, name)
}

// moveUp moves a folder into top, under a name that is not used there.
func moveUp(from int, name string, top int, moved *int) error {
	for {
		*moved++
		err := unix.Renameat2(from, name, top, fmt.Sprintf(".moved-%d", *moved), unix.RENAME_NOREPLACE)
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// unlink removes name unless it is a folder. It returns nil if name does not
// exist.
func unlink(folder int, name string) (isFolder bool, err error) {
	err = unix.Unlinkat(folder, name, 0)
	switch {
	case errors.Is(err, unix.EISDIR):
		return true, nil
	case errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return false, err
}

func rmdir(folder int, name string) error {
	err := unix.Unlinkat(folder, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func openFolder(folder int, name string) (int, error) {
	fd, err := openBeneath(folder, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK)
	if errors.Is(err, unix.EXDEV) {
		err = fmt.Errorf("something is mounted in it: %w", err)
	}
	return fd, err
}

// eachName calls remove with every name in the folder until the folder is empty.
func eachName(ctx context.Context, folder int, remove func(name string) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := someNames(folder)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			// The error omits the name, which the untrusted party chose.
			if err := remove(name); err != nil {
				return err
			}
		}
	}
}

// someNames reads the first names of a folder. It opens a new descriptor each
// time, because a read position is meaningless in a folder that changes.
func someNames(folder int) ([]string, error) {
	fd, err := openFolder(folder, ".")
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "folder")
	defer f.Close()
	names, err := f.Readdirnames(batch)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}
