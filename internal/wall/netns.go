// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// fileKind is what stands at a namespace's path.
type fileKind int

const (
	// fileAbsent: nothing, or an empty file, which a namespace is bound to:
	// what `ip netns` leaves when its mounts are gone.
	fileAbsent fileKind = iota
	// fileForeign is anything but a network namespace.
	fileForeign
	fileNetNS
)

// openNetNS opens the namespace at path; the file is nil unless it is one.
func openNetNS(path string) (*os.File, fileKind, host.NetNS, error) {
	// Whatever stands there must not hold us up: neither a FIFO nor a link.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fileAbsent, host.NetNS{}, nil
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return nil, fileForeign, host.NetNS{}, nil
	case err != nil:
		return nil, fileAbsent, host.NetNS{}, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	kind, id, err := kindOf(fd)
	if err != nil || kind != fileNetNS {
		f.Close()
		return nil, kind, host.NetNS{}, err
	}
	return f, kind, id, nil
}

func kindOf(fd int) (fileKind, host.NetNS, error) {
	var st unix.Stat_t
	var sfs unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &sfs)); err != nil {
		return fileAbsent, host.NetNS{}, err
	}
	if sfs.Type == unix.NSFS_MAGIC {
		kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
		if err != nil || kind != unix.CLONE_NEWNET {
			return fileForeign, host.NetNS{}, err
		}
		return fileNetNS, host.NetNS{Dev: st.Dev, Inode: st.Ino}, nil
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0 {
		return fileAbsent, host.NetNS{}, nil
	}
	return fileForeign, host.NetNS{}, nil
}

// makeNetNS makes a namespace and gives it its name. It bears its mark before
// it has a name: a namespace of ours that can be found can be told as ours.
func (w *Walls) makeNetNS(path, mark string) error {
	if err := w.makeDir(); err != nil {
		return err
	}
	err := ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		quietIPv6()
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetAlias(lo, mark)
		}
		if err != nil {
			return fmt.Errorf("mark: %w", err)
		}
		return bindNetNS(path)
	})
	if err != nil {
		return fmt.Errorf("make network namespace %s: %w", path, err)
	}
	return nil
}

// bindNetNS gives the calling thread's network namespace a name.
func bindNetNS(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(own, path, "none", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

// quietIPv6 turns IPv6 off in the calling thread's network namespace, so that
// links made in it later say nothing of their own accord. Where that cannot be
// (no IPv6, /proc/sys read-only) nothing is lost: the filter drops it.
func quietIPv6() {
	for _, which := range []string{"all", "default"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0)
	}
}

// makeDir makes the folder of the namespaces, and a shared mount of it, as
// `ip netns` does: other mount namespaces then see what is bound there, and do
// not keep alive what is gone here. The lock is the one that `ip netns` takes.
func (w *Walls) makeDir() error {
	w.dirMu.Lock()
	defer w.dirMu.Unlock()
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(w.dir)
	if err != nil {
		return err
	}
	defer dir.Close() // and with it the lock
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", w.dir, err)
	}
	err = unix.Mount("", w.dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // no mount point yet
		err = unix.Mount(w.dir, w.dir, "none", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			err = unix.Mount("", w.dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w", w.dir, err)
	}
	return nil
}

// removeNetNS takes a namespace's name away, however often it is mounted.
func removeNetNS(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// inNetNS gives f a netlink handle into a namespace. f itself runs outside.
func inNetNS(ns *os.File, f func(h *netlink.Handle) error) error {
	var h *netlink.Handle
	err := ownthread.Run(func() (err error) {
		h, err = handleIn(ns)
		return err
	})
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

// handleIn takes the calling thread, which must be one of its own, into a
// namespace for good and returns a netlink handle there.
func handleIn(ns *os.File) (*netlink.Handle, error) {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", filepath.Base(ns.Name()), err)
	}
	return netlink.NewHandle(unix.NETLINK_ROUTE)
}
