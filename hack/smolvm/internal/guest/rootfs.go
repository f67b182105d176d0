// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// enterRoot makes the guest's root file system and moves the process into it.
// Changes are stored in the machine's folder, so that they survive stop and start.
func enterRoot(c *Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	root := filepath.Join(c.Dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := mountDisk(c, root); err != nil {
		return err
	}
	if err := mountKernelFiles(root); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if err := bindInto(root, m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	if err := writeEtc(c, root); err != nil {
		return err
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// mountDisk mounts the image with the machine's changes on top: as an overlay, or
// as a copy if the file system does not support overlays (as when it is one).
func mountDisk(c *Config, root string) error {
	upper, work := filepath.Join(c.Dir, "overlay/upper"), filepath.Join(c.Dir, "overlay/work")
	full := filepath.Join(c.Dir, "overlay/copy")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if _, err := os.Stat(full); err != nil {
		opts := "lowerdir=" + escape(c.Rootfs) + ",upperdir=" + escape(upper) + ",workdir=" + escape(work)
		err := unix.Mount("overlay", root, "overlay", 0, opts)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("mount overlay: %w", err)
		}
		if err := copyTree(c.Rootfs, full+".new"); err != nil {
			return fmt.Errorf("copy the image: %w", err)
		}
		if err := os.Rename(full+".new", full); err != nil {
			return err
		}
	}
	return unix.Mount(full, root, "", unix.MS_BIND, "")
}

func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(path)
}

// devices are the device nodes in a guest's /dev.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

func mountKernelFiles(root string) error {
	at := func(p string) string { return filepath.Join(root, p) }
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "workspace"} {
		if err := os.MkdirAll(at(d), 0o755); err != nil {
			return err
		}
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	for _, m := range []struct {
		target, kind string
		flags        uintptr
		data         string
	}{
		{"proc", "proc", safe | unix.MS_NOEXEC, ""},
		{"sys", "sysfs", safe | unix.MS_NOEXEC | unix.MS_RDONLY, ""},
		{"dev", "tmpfs", unix.MS_NOSUID, "mode=0755,size=64k"},
		{"tmp", "tmpfs", safe, "mode=1777"},
		{"run", "tmpfs", safe, "mode=0755"},
	} {
		if err := unix.Mount(m.kind, at(m.target), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount /%s: %w", m.target, err)
		}
	}
	// Keep the guest from changing the host's sysctls.
	if err := unix.Mount(at("proc/sys"), at("proc/sys"), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", at("proc/sys"), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	for _, name := range devices {
		if err := bindFile("/dev/"+name, at("dev/"+name)); err != nil {
			return err
		}
	}
	if sysrq := at("proc/sysrq-trigger"); exists(sysrq) {
		if err := bindFile("/dev/null", sysrq); err != nil {
			return err
		}
	}
	return mountTerminals(at("dev"))
}

func mountTerminals(dev string) error {
	for _, d := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dev, d), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return fmt.Errorf("mount /dev/pts: %w", err)
	}
	if err := unix.Mount("shm", filepath.Join(dev, "shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	for link, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, filepath.Join(dev, link)); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func bindFile(from, to string) error {
	if !exists(to) {
		if err := os.WriteFile(to, nil, 0o666); err != nil {
			return err
		}
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	return nil
}

// bindInto mounts a host directory in the guest. It resolves the target inside
// the guest's root, so that a symlink in the image cannot lead outside.
func bindInto(root string, m Mount) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	rel := strings.TrimPrefix(filepath.Clean("/"+m.Target), "/")
	if err := dir.MkdirAll(rel, 0o755); err != nil {
		return err
	}
	if err := atPath(dir, rel, func(target string) error {
		return unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, "")
	}); err != nil || !m.ReadOnly {
		return err
	}
	return atPath(dir, rel, func(target string) error {
		return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
	})
}

// atPath opens rel in dir and calls f with a path that keeps naming that file or
// folder, even if rel is replaced meanwhile.
func atPath(dir *os.Root, rel string, f func(string) error) error {
	target, err := dir.Open(rel)
	if err != nil {
		return err
	}
	defer target.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d", target.Fd()))
}

// writeEtc writes the files in /etc that a guest's init would write. The changes
// go to the machine's own layer.
func writeEtc(c *Config, root string) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := dir.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	files := map[string]string{"etc/hostname": c.Name + "\n"}
	if c.Resolver != "" {
		files["etc/resolv.conf"] = "nameserver " + c.Resolver + "\n"
	}
	if _, err := dir.Stat("etc/hosts"); errors.Is(err, fs.ErrNotExist) {
		files["etc/hosts"] = "127.0.0.1 localhost\n::1 localhost\n"
	}
	for path, text := range files {
		if err := dir.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := dir.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
