// SPDX-License-Identifier: Apache-2.0

// Package archive moves files in and out of a guest as a stream in tar's format. It
// keeps modes, times to the nanosecond, symbolic and hard links. It follows no symbolic
// link below the folder that it works in, and its memory does not grow with the size of
// the files. It does not keep owners on the way in, nor devices, sockets and pipes.
package archive

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds the folders that are open at the same time.
	maxDepth = 400
	// maxRemembered bounds the hard links, and the folders whose times are set last,
	// that are remembered.
	maxRemembered = 100_000
)

// openFolder opens a folder that is an entry of another one, without following links.
func openFolder(at int, name string) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// openRoot opens the folder to work in. Links are followed: the user named it.
func openRoot(path string) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, fmt.Errorf("%s: %w", quote(path), err)
	}
	return fd, nil
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// quote returns a name for a message, in printable characters and shortened.
func quote(name string) string {
	quoted := fmt.Sprintf("%+q", name)
	if len(quoted) > 200 {
		return quoted[:200] + "…"
	}
	return quoted
}

func timespec(t time.Time) unix.Timespec {
	spec, err := unix.TimeToTimespec(t)
	if err != nil {
		return unix.Timespec{}
	}
	return spec
}

// setTime sets the modification time of an entry, which may be a link. The access time
// becomes the same.
func setTime(at int, name string, t time.Time) error {
	if t.IsZero() {
		return nil
	}
	spec := timespec(t)
	return unix.UtimesNanoAt(at, name, []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW)
}

func kind(st *unix.Stat_t) uint32 { return st.Mode & unix.S_IFMT }

// folderExists reports whether path is a folder or a link to one.
func folderExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
