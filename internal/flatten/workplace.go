// SPDX-License-Identifier: Apache-2.0

package flatten

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/internal/untrusted"
)

// prefix starts the name of a workplace.
const prefix = ".flatten-"

// removeLimit bounds the time to remove a workplace. Sweep removes the rest.
const removeLimit = 10 * time.Minute

// The folders of a workplace, as seen from inside. A layer's folder has its
// number as its name.
const (
	bottomDir = "/0" // empty, because overlayfs needs two layers
	mergedDir = "/m"
)

// workplace is a folder in which an image is unpacked.
type workplace struct{ dir, name string }

// Sweep removes the folders below dir that calls of Flatten in a process that
// died have left. No call of Flatten may be running.
func Sweep(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			err = errors.Join(err, untrusted.RemoveAll(ctx, dir, e.Name()))
		}
	}
	return err
}

func newWorkplace(dir string) (*workplace, error) {
	path, err := os.MkdirTemp(dir, prefix) // has mode 0700
	if err != nil {
		return nil, err
	}
	return &workplace{dir: dir, name: filepath.Base(path)}, nil
}

func (p *workplace) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	return untrusted.RemoveAll(ctx, p.dir, p.name)
}

// inside runs f on a thread for which the workplace is the root directory. The
// mounts that f makes end with the thread.
//
// f must not call code of others, which may open files of the node, and must
// not read the time zone or the proxy from the node either.
func (p *workplace) inside(f func() error) error {
	return ownthread.Run(func() error {
		if err := p.enter(); err != nil {
			return fmt.Errorf("enter the folder to unpack layers: %w", err)
		}
		return f()
	})
}

// enter makes the workplace the thread's root directory, in a mount namespace of
// the thread's own.
func (p *workplace) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(p.dir, p.name), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(fd)
	const attributes = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: attributes}); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	return os.NewSyscallError("chroot", errors.Join(unix.Fchdir(fd), unix.Chroot("."), unix.Chdir("/")))
}

// mountFlags are the same for the merged tree.
const mountFlags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
