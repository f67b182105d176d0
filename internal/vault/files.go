// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

const (
	// mountOptions bound what the agent could write by mistake. The agent keeps at most
	// 256 MiB of values for all Bottles, and base64 adds a third.
	mountOptions = "mode=0700,size=512m,nr_inodes=131072"
	mountFlags   = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
)

// ensureMounted mounts a file system in memory on dir, unless there is one.
func ensureMounted(dir string) error {
	if err := ensureDir(dir, 0o700); err != nil {
		return err
	}
	if is, err := isMounted(dir); err != nil || is {
		return err
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", mountFlags, mountOptions+",noswap")
	if errors.Is(err, unix.EINVAL) {
		// Linux before 6.4 does not know noswap. A ramfs is never swapped, but has no
		// limit; MaxFile and the agent's limits on values apply.
		err = unix.Mount("ramfs", dir, "ramfs", mountFlags, "mode=0700")
	}
	if err != nil {
		return fmt.Errorf("mount a file system in memory on %s: %w", dir, err)
	}
	return nil
}

// isMounted reports whether something is mounted on the folder.
func isMounted(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := errors.Join(unix.Lstat(dir, &here), unix.Lstat(dir+"/..", &above)); err != nil {
		return false, err
	}
	return here.Dev != above.Dev, nil
}

// unmountIfEmpty unmounts and removes the vault once it has no folder. The caller holds
// the mutex.
func (v *Vault) unmountIfEmpty() error {
	dir := v.options.Dir
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil || len(entries) > 0:
		return err
	}
	if is, err := isMounted(dir); err != nil {
		return err
	} else if is {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if err := os.Remove(dir); !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil // below the mount was something that is not ours
}

// inMemory returns an error unless the folder is on a tmpfs or ramfs: what is written
// after somebody unmounted the vault must not reach a disk.
func inMemory(dir int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil {
		return err
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		return errors.New("the folder is not in memory")
	}
	return nil
}

func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err == nil && len(data) > MaxFile {
		err = errors.New("the file is too large")
	}
	return data, err
}

// access says to whom a file belongs, and who may read it.
type access struct {
	owner int // the number of a user and of a group
	mode  fs.FileMode
}

// replaceAt replaces the file, unless it has this content. Until it is complete, the new
// file belongs to root.
func replaceAt(dir int, name string, data []byte, to access) error {
	if have, err := readAt(dir, name); err == nil && bytes.Equal(have, data) {
		return nil
	}
	temp := atomicfile.TempPrefix + name
	if err := unix.Unlinkat(dir, temp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	if err == nil {
		err = errors.Join(f.Chown(to.owner, to.owner), f.Chmod(to.mode))
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = unix.Renameat(dir, temp, dir, name)
	}
	if err != nil {
		return errors.Join(err, unix.Unlinkat(dir, temp, 0))
	}
	return nil
}

// ensureDir makes a directory with exactly this mode, regardless of the umask.
func ensureDir(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case info.Mode().Perm() == mode:
		return nil
	}
	return os.Chmod(path, mode)
}
