//go:build unix

// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nonblock makes opening a FIFO that has just replaced a file not wait for a writer.
const nonblock = unix.O_NONBLOCK

// fileID identifies a file of this machine.
type fileID struct{ device, inode uint64 }

// several returns the file's id and whether it has several names.
func several(info fs.FileInfo) (fileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink < 2 {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), st.Ino}, true //nolint:unconvert // Dev is an int32 elsewhere
}

// setLinkTime sets the time of a symbolic link itself.
func setLinkTime(root *os.Root, name string, t time.Time) error {
	folder, err := root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer folder.Close()
	spec, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(folder.Fd()), filepath.Base(name), []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW)
}
