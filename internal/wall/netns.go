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

// fileKind is the kind of file at a namespace's path.
type fileKind int

const (
	// fileAbsent means that there is no file, or an empty file without a
	// namespace mounted on it, as `ip netns` leaves it when its mounts are gone.
	fileAbsent fileKind = iota
	// fileForeign is anything else that is not a network namespace.
	fileForeign
	fileNetNS
)

// openNetNS opens the network namespace at path. The returned file is nil if path
// is not a network namespace.
func openNetNS(path string) (*os.File, fileKind, host.NetNS, error) {
	return openAny(path, unix.O_NOFOLLOW)
}

// openAny is openNetNS, but follows a link at path unless flags has O_NOFOLLOW. Like
// openNetNS, it does not block on a FIFO.
func openAny(path string, flags int) (*os.File, fileKind, host.NetNS, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH): // ESRCH: the process of a path below /proc has ended
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

// threadsNetNS returns the network namespace of the calling thread.
func threadsNetNS() (host.NetNS, error) { return statNetNS("/proc/thread-self/ns/net") }

// processNetNS returns the network namespace of the process.
func processNetNS() (host.NetNS, error) { return statNetNS("/proc/self/ns/net") }

func statNetNS(path string) (host.NetNS, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return host.NetNS{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return host.NetNS{Dev: st.Dev, Inode: st.Ino}, nil
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

// makeNetNS makes a namespace and gives it its name. The namespace has its mark
// before it has a name, so that every namespace of ours with a name can be
// recognized as ours.
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
// links that are made in it later send nothing on their own. If that is not
// possible (no IPv6, or /proc/sys is read-only), the filter drops what they send.
func quietIPv6() {
	for _, which := range []string{"all", "default"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0)
	}
}

// makeDir makes the folder of the namespaces, and makes it a shared mount, as `ip
// netns` does. Other mount namespaces then see what is mounted there, and do not
// keep alive what is unmounted here. It takes the same lock as `ip netns`.
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
	defer dir.Close() // which also releases the lock
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", w.dir, err)
	}
	err = unix.Mount("", w.dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
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

// removeNetNS removes a namespace's name, however often it is mounted.
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

// inNetNS calls f with a netlink handle in a namespace. f itself runs outside the
// namespace.
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

// handleIn moves the calling thread into a namespace for good, and returns a
// netlink handle there. The thread must not be used for anything else.
func handleIn(ns *os.File) (*netlink.Handle, error) {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter network namespace %s: %w", filepath.Base(ns.Name()), err)
	}
	return netlink.NewHandle(unix.NETLINK_ROUTE)
}
