// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// closedError reports a folder that the users that machines run as cannot
// traverse.
type closedError struct {
	dir  string
	mode fs.FileMode
}

func (e *closedError) Error() string {
	return fmt.Sprintf("%s is closed to the users that machines run as (mode %04o): chmod o+x %s", e.dir, e.mode.Perm(), e.dir)
}

// firstClosed returns a closedError for the topmost folder in path, including
// path itself, that other users may not traverse; nil if there is none. A folder
// that does not exist yet does not count: whoever creates it must open it.
func firstClosed(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for _, dir := range steps(path) {
		st, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %s", dir, reason(err))
		}
		if st.IsDir() && st.Mode()&0o001 == 0 {
			return &closedError{dir, st.Mode()}
		}
	}
	return nil
}

// steps returns the folders of an absolute path, starting with the root.
func steps(path string) []string {
	out := []string{"/"}
	at := ""
	for _, part := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
		if part != "" {
			at += "/" + part
			out = append(out, at)
		}
	}
	return out
}

// writable returns nil if path can be written. If path does not exist, its
// nearest existing parent must be writable.
func writable(path string) error {
	for {
		err := unix.Access(path, unix.W_OK)
		if !errors.Is(err, unix.ENOENT) || path == "/" {
			return err
		}
		path = filepath.Dir(path)
	}
}

// readableFile returns nil if path is a file that the users that machines run as
// can read, and otherwise an error that says why not.
func readableFile(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %s", path, reason(err))
	case !st.Mode().IsRegular() || st.Size() == 0:
		return fmt.Errorf("%s is empty or not a file: install smolvm again", path)
	case st.Mode()&0o004 == 0:
		return fmt.Errorf("%s cannot be read by the users that machines run as (mode %04o): chmod o+r %s", path, st.Mode().Perm(), path)
	}
	return nil
}

// files checks what a VMM loads: libraries, the guest's root file system, and
// blank disks.
func (c *Checker) files() host.Fact {
	dir := c.opts.SmolvmDir
	rootfs := filepath.Join(dir, "agent-rootfs")
	for _, folder := range []string{filepath.Join(dir, "lib"), rootfs} {
		if err := firstClosed(folder); err != nil {
			return bad(filesName, "%s", err)
		}
	}
	for _, lib := range []string{"libkrun.so*", "libkrunfw.so*"} {
		found, err := filepath.Glob(filepath.Join(dir, "lib", lib))
		if err != nil || len(found) == 0 {
			return bad(filesName, "%s is missing in %s: install smolvm's libraries there", lib, filepath.Join(dir, "lib"))
		}
		for _, f := range found {
			if err := readableFile(f); err != nil {
				return bad(filesName, "%s", err)
			}
		}
	}
	entries, err := os.ReadDir(rootfs)
	if err != nil || len(entries) == 0 {
		return bad(filesName, "%s is missing or empty: unpack smolvm's agent-rootfs there", rootfs)
	}
	if st, err := os.Stat(rootfs); err != nil || st.Mode()&0o004 == 0 {
		return bad(filesName, "%s cannot be listed by the users that machines run as: chmod -R a+rX %s", rootfs, rootfs)
	}
	return c.templates()
}

// templates checks the templates of blank disks. A release that ships them
// compressed decompresses them at the first start, which can take minutes. A
// release without templates makes file systems, and needs mkfs.ext4.
func (c *Checker) templates() host.Fact {
	for _, disk := range []string{"storage", "overlay"} {
		name := disk + "-template.ext4"
		plain := filepath.Join(c.opts.SmolvmDir, name)
		if _, err := os.Stat(plain); err == nil {
			if err := readableFile(plain); err != nil {
				return bad(filesName, "%s", err)
			}
			continue
		}
		for _, packed := range []string{plain + ".zst", filepath.Join(c.opts.SmolvmDir, "lib", name+".zst")} {
			if _, err := os.Stat(packed); err == nil {
				return good(filesName, fmt.Sprintf("the first start will be slow: run zstd -d --sparse %s -o %s", packed, plain))
			}
		}
		if !anyExists("/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4", "/bin/mkfs.ext4") {
			return bad(filesName, "neither %s nor mkfs.ext4 exists: install one of them", plain)
		}
	}
	return good(filesName, "")
}

func anyExists(paths ...string) bool {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return true
		}
	}
	return false
}
