// SPDX-License-Identifier: Apache-2.0

// Package netns runs functions in a network namespace that another program made, such as
// that of a Pod. It never changes the namespace of the calling goroutine, and keeps no
// namespace alive after a call.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// ErrGone means that a path has no network namespace, or no longer the one that the caller
// expects.
var ErrGone = errors.New("the network namespace is gone")

// Identify returns the identity of the network namespace at path, which may also be
// /proc/PID/ns/net. It returns ErrGone if there is none. It opens nothing, so it is cheap
// and keeps nothing alive.
func Identify(path string) (host.NetNS, error) {
	var st unix.Stat_t
	var sfs unix.Statfs_t
	if err := errors.Join(unix.Stat(path, &st), unix.Statfs(path, &sfs)); err != nil {
		return host.NetNS{}, pathError(path, err)
	}
	if sfs.Type != unix.NSFS_MAGIC {
		// It is the empty file on which a namespace was mounted, or was mounted in
		// another mount namespace.
		return host.NetNS{}, fmt.Errorf("%s is not a network namespace: %w", path, ErrGone)
	}
	return host.NetNS{Dev: st.Dev, Inode: st.Ino}, nil
}

// Do runs f on a thread of its own in the network namespace at path, and returns f's
// error. It returns ErrGone without running f unless the namespace is want. A socket that
// f opens stays in the namespace and keeps it alive.
func Do(path string, want host.NetNS, f func() error) error {
	ns, err := open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return pathError(path, err)
	}
	if (host.NetNS{Dev: st.Dev, Inode: st.Ino}) != want {
		return fmt.Errorf("%s is another network namespace than before: %w", path, ErrGone)
	}
	return ownthread.Run(func() error {
		// This fails for a namespace of another kind.
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return f()
	})
}

func open(path string) (*os.File, error) {
	if _, err := Identify(path); err != nil {
		return nil, err // a FIFO, for example, is never opened
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, pathError(path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// pathError adds ErrGone to errors that mean that nothing is at the path. ESRCH and ENOENT
// come from /proc when the process has ended.
func pathError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%s: %w", path, ErrGone)
	}
	return fmt.Errorf("network namespace %s: %w", path, err)
}
