// SPDX-License-Identifier: Apache-2.0

// Package untrusted reads and removes files in folders that somebody else can
// write to at the same time: the user that a VMM runs as, a guest, or a
// container. They can replace a file with anything at any moment: a FIFO that
// blocks its reader, a link to an endless device, or a file of several terabytes.
//
// It does not check what a file contains. Callers pass the last folder that they
// trust and a name below it; the path of that folder must not lead through an
// untrusted one.
package untrusted

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRegular means that the name is not a regular file, or that its path leads
// through a link or into another file system.
var ErrNotRegular = errors.New("not a regular file")

// ErrTooLarge means that the file is larger than the caller's limit.
var ErrTooLarge = errors.New("file is larger than the limit")

// beneath restricts a lookup to the folder in which it starts: it follows no
// link, no "..", and enters no mount.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// ReadFile reads the regular file name below dir, limit bytes at most. It trusts
// the path of dir, but nothing below dir. It never blocks. Errors wrap
// fs.ErrNotExist, ErrNotRegular or ErrTooLarge where one fits.
func ReadFile(dir, name string, limit int64) ([]byte, error) {
	f, err := Open(dir, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: fmt.Errorf("%w: %d bytes", ErrTooLarge, limit)}
	}
	return data, nil
}

// Open opens a regular file for reading, with the same rules as ReadFile. The
// caller must limit how much it reads.
func Open(dir, name string) (*os.File, error) { return open(dir, name, unix.O_RDONLY) }

// OpenSingle is like Open, but returns ErrNotRegular if the file has another name too:
// that one may be a file of somebody else.
func OpenSingle(dir, name string) (*os.File, error) { return openSingle(dir, name, unix.O_RDONLY) }

// OpenToWrite is like OpenSingle, but opens the file for reading and writing. It does not
// create or truncate it.
func OpenToWrite(dir, name string) (*os.File, error) { return openSingle(dir, name, unix.O_RDWR) }

func openSingle(dir, name string, access uint64) (*os.File, error) {
	f, err := open(dir, name, access)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && st.Nlink != 1 {
		err = &fs.PathError{Op: "open", Path: f.Name(), Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func open(dir, name string, access uint64) (*os.File, error) {
	folder, err := openTrusted(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(folder)
	path := dir + "/" + name
	// With O_NONBLOCK, opening a FIFO does not wait for a writer, and opening a
	// file with a lease fails immediately.
	fd, err := openBeneath(folder, name, access|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: notRegular(err)}
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// notRegular adds ErrNotRegular to the kernel's errors for links (ELOOP), sockets
// (ENXIO) and other file systems (EXDEV).
func notRegular(err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("%w: %w", ErrNotRegular, err)
	}
	return err
}

func openTrusted(dir string) (int, error) {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func openBeneath(dir int, name string, flags uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: beneath}
	for range 100 {
		// EAGAIN means either that a parent folder was renamed during the lookup,
		// or that the file has a lease. Retry, but not for long.
		fd, err := ignoringEINTR(func() (int, error) { return unix.Openat2(dir, name, how) })
		if !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
