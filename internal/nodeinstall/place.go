// SPDX-License-Identifier: Apache-2.0

package nodeinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openPlace opens and locks /opt/NAME below hostRoot, and creates what is missing. Only
// root may be able to write to it: the agent runs what is there as root.
func openPlace(ctx context.Context, hostRoot, name string) (*place, error) {
	host, err := unix.Open(hostRoot, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the node's root %s: %w", hostRoot, err)
	}
	defer unix.Close(host)
	// Systems such as Fedora CoreOS have a link at /opt. RESOLVE_IN_ROOT resolves it as
	// the node does. Nothing below it may be a link.
	opt, err := openFolder(host, "opt", unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, err
	}
	defer unix.Close(opt)
	p := &place{name: name, folderFD: -1, versionsFD: -1}
	if err := p.open(ctx, opt); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *place) open(ctx context.Context, opt int) (err error) {
	const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
	if p.folderFD, err = openFolder(opt, p.name, below); err != nil {
		return err
	}
	if err := lock(ctx, p.folderFD); err != nil {
		return err
	}
	if p.versionsFD, err = openFolder(p.folderFD, versionsFolder, below); err != nil {
		return err
	}
	if p.folder, err = rootOf(p.folderFD); err != nil {
		return err
	}
	p.versions, err = rootOf(p.versionsFD)
	return err
}

func (p *place) close() {
	for _, root := range []*os.Root{p.folder, p.versions} {
		if root != nil {
			root.Close()
		}
	}
	for _, fd := range []int{p.folderFD, p.versionsFD} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// openFolder opens the folder name in the folder dir, or creates it.
func openFolder(dir int, name string, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve}
	fd, err := unix.Openat2(dir, name, how)
	made := false
	if errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(dir, name, 0o755); err == nil || errors.Is(err, unix.EEXIST) {
			made = err == nil
			fd, err = unix.Openat2(dir, name, how)
		}
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return -1, fmt.Errorf("%s is a symbolic link: remove it, or replace it with a folder", name)
	case errors.Is(err, unix.ENOTDIR):
		return -1, fmt.Errorf("%s is not a folder: remove it", name)
	case err != nil:
		return -1, fmt.Errorf("open %s: %w", name, err)
	}
	if made { // regardless of the umask
		err = unix.Fchmod(fd, 0o755)
	}
	if err = errors.Join(err, checkOwner(fd, name)); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// checkOwner returns an error if others than this process's user can write to a folder.
func checkOwner(fd int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("inspect %s: %w", name, err)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d: chown it to root", name, st.Uid)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("%s can be written by others than its owner (mode %04o): chmod go-w it", name, st.Mode&0o7777)
	}
	return nil
}

// lock waits for other installations of the same name. The kernel unlocks the folder
// when it is closed.
func lock(ctx context.Context, fd int) error {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another installation is running: %w", ctx.Err())
		case <-time.After(lockPause):
		}
	}
}

// rootOf returns the folder as a root that no name can leave.
func rootOf(fd int) (*os.Root, error) { return os.OpenRoot("/proc/self/fd/" + strconv.Itoa(fd)) }

// switchTo makes the version current. It reports whether another one was.
func (p *place) switchTo(version string) (bool, error) {
	old, err := p.linked(current)
	if err != nil {
		return false, err
	}
	if old == version {
		return false, nil
	}
	if old != "" { // first, so that a crash after the switch does not lose it
		if err := p.link(previous, old); err != nil {
			return false, err
		}
	}
	return true, p.link(current, version)
}

// linked returns the version that a link names; "" if there is no such link or if it
// names no version.
func (p *place) linked(name string) (string, error) {
	info, err := p.folder.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("inspect %s: %w", name, err)
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return "", fmt.Errorf("/opt/%s/%s is not a symbolic link: remove it", p.name, name)
	}
	target, err := p.folder.Readlink(name)
	if err != nil {
		return "", fmt.Errorf("inspect %s: %w", name, err)
	}
	version, ok := strings.CutPrefix(target, versionsFolder+"/")
	if !ok || !validFolder(version) {
		return "", nil
	}
	return version, nil
}

// validFolder reports whether a name can be that of a version's folder. A digest may
// follow the version.
func validFolder(name string) bool {
	return len(name) <= 200 && filepath.Base(name) == name && name[0] != '.'
}

// link makes name a link to the version, atomically.
func (p *place) link(name, version string) error {
	temporary := newPrefix + name
	if err := p.folder.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("switch %s: %w", name, err)
	}
	if err := p.folder.Symlink(versionsFolder+"/"+version, temporary); err != nil {
		return fmt.Errorf("switch %s: %w", name, err)
	}
	if err := p.folder.Rename(temporary, name); err != nil {
		return fmt.Errorf("switch %s: %w", name, err)
	}
	if err := unix.Fsync(p.folderFD); err != nil {
		return fmt.Errorf("switch %s: %w", name, err)
	}
	return nil
}
