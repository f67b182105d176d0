// SPDX-License-Identifier: Apache-2.0

// Package untrusted reads and removes files in folders that somebody else may
// write meanwhile: the user that a VMM runs as, a guest, a container. Whoever
// can write there can put anything in a file's place, at any moment: a FIFO
// that blocks its reader, a link to a device without end, a file of terabytes.
//
// It does not judge what a file holds, and it does not protect from a folder
// whose own path passes through such a folder: callers give the last folder
// that they trust, and a name below it.
package untrusted

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNotRegular is what is there in a regular file's place, or is reached by
// way of a link or of another filesystem.
var ErrNotRegular = errors.New("not a regular file")

// ErrTooLarge is a file larger than what the caller reads.
var ErrTooLarge = errors.New("larger than what is read")

// beneath keeps a lookup below the folder that it starts in: no link, no "..",
// and nothing that was mounted there.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// ReadFile reads the regular file name below dir, limit bytes at most. The way
// to dir is trusted, the way from there is not. It never blocks. Errors wrap
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

// Open opens a regular file for reading, under the rules of ReadFile. What is
// read from it is the caller's to bound.
func Open(dir, name string) (*os.File, error) {
	folder, err := openTrusted(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(folder)
	path := dir + "/" + name
	// With O_NONBLOCK a FIFO has no reader to wait for, and a file on which
	// somebody holds a lease is refused at once.
	fd, err := openBeneath(folder, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
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

// notRegular adds ErrNotRegular to what the kernel says of links (ELOOP),
// sockets (ENXIO) and other filesystems (EXDEV).
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
		// EAGAIN of a lookup means that something above was renamed meanwhile,
		// EAGAIN of an open that there is a lease: neither is waited for long.
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
