// SPDX-License-Identifier: Apache-2.0

package nodeinstall

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxMaps bounds what is read of the memory maps of one process.
const maxMaps = 16 << 20

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }

// removeUnused removes the versions that are neither current nor previous and that no
// process runs, and what interrupted installations left behind. If it cannot tell what
// a process runs, it removes nothing.
func (p *place) removeUnused(ctx context.Context) (removed []string, err error) {
	names, err := namesIn(p.versions)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for _, link := range []string{current, previous} {
		version, err := p.linked(link)
		if err != nil {
			return nil, err
		}
		keep[version] = true
	}
	old := slices.DeleteFunc(sorted(names), func(name string) bool {
		return keep[name] || !validFolder(name) && !strings.HasPrefix(name, newPrefix)
	})
	if len(old) == 0 {
		return nil, nil
	}
	used, err := p.used(ctx, old)
	if err != nil {
		return nil, fmt.Errorf("find out which versions are used: %w", err)
	}
	for _, name := range old {
		if used[name] {
			continue
		}
		if strings.HasPrefix(name, newPrefix) {
			if err := p.versions.RemoveAll(name); err != nil {
				return removed, err
			}
			continue
		}
		// It is renamed first: if the removal stops halfway, what is left must not look like
		// a complete version.
		renamed := newPrefix + rand.Text()
		if err := p.versions.Rename(name, renamed); err != nil {
			return removed, err
		}
		removed = append(removed, name)
		if err := p.versions.RemoveAll(renamed); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// file identifies a file in any mount namespace.
type file struct{ device, inode uint64 }

// used returns which of the versions a process runs or has mapped.
func (p *place) used(ctx context.Context, versions []string) (map[string]bool, error) {
	files := map[file]string{}
	for _, version := range versions {
		if err := p.addFiles(ctx, files, version, version); err != nil {
			return nil, err
		}
	}
	type answer struct {
		used map[string]bool
		err  error
	}
	found := make(chan answer, 1)
	go func() {
		used, err := p.usedBy(ctx, files, versions)
		found <- answer{used, err}
	}()
	// A process may keep whoever looks at it waiting, for example if the file system of its
	// program does not respond.
	timeout := time.NewTimer(p.inspect)
	defer timeout.Stop()
	select {
	case a := <-found:
		return a.used, a.err
	case <-timeout.C:
		return nil, fmt.Errorf("the node's processes could not be inspected within %s", p.inspect)
	}
}

// usedBy looks at all processes. It may hang.
func (p *place) usedBy(ctx context.Context, files map[file]string, versions []string) (map[string]bool, error) {
	entries, err := os.ReadDir(p.proc)
	if err != nil {
		return nil, err
	}
	used, processes := map[string]bool{}, 0
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		processes++
		if err := p.addUsedBy(filepath.Join(p.proc, e.Name()), files, versions, used); err != nil {
			return nil, fmt.Errorf("process %s: %w", e.Name(), err)
		}
	}
	if processes == 0 {
		return nil, fmt.Errorf("%s lists no process", p.proc)
	}
	return used, nil
}

// addFiles adds the files in a folder of a version.
func (p *place) addFiles(ctx context.Context, files map[file]string, folder, version string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := p.versions.Lstat(folder)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if info.Mode().IsRegular() {
		if err := unix.Fstatat(p.versionsFD, folder, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		files[file{st.Dev, st.Ino}] = version
	}
	if !info.IsDir() {
		return nil
	}
	f, err := p.versions.Open(folder)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(maxEntries)
	f.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, name := range names {
		if err := p.addFiles(ctx, files, folder+"/"+name, version); err != nil {
			return err
		}
	}
	return nil
}

// addUsedBy adds the versions that a process runs. dir is its folder in /proc.
func (p *place) addUsedBy(dir string, files map[file]string, versions []string, used map[string]bool) error {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, filepath.Join(dir, "exe"), unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	switch {
	case err == nil:
		if version, ok := files[file{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}]; ok {
			used[version] = true
		}
	case !gone(err): // a kernel thread has no program
		return err
	}
	maps, err := os.Open(filepath.Join(dir, "maps"))
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(io.LimitReader(maps, maxMaps))
	for lines.Scan() {
		for _, version := range versions {
			if used[version] {
				continue
			}
			part := "/" + p.name + "/" + versionsFolder + "/" + version + "/"
			used[version] = bytes.Contains(lines.Bytes(), []byte(part)) || mapped(lines.Bytes(), files) == version
		}
	}
	if err := lines.Err(); err != nil && !gone(err) {
		return err
	}
	return nil
}

// mapped returns the version to which the file in a line of /proc/PID/maps belongs; "" if
// it belongs to none. Some file systems show another device there than stat does, so the
// path counts too.
func mapped(line []byte, files map[file]string) string {
	fields := bytes.Fields(line)
	if len(fields) < 6 {
		return ""
	}
	major, minor, ok := bytes.Cut(fields[3], []byte(":"))
	inode, err := strconv.ParseUint(string(fields[4]), 10, 64)
	high, err1 := strconv.ParseUint(string(major), 16, 32)
	low, err2 := strconv.ParseUint(string(minor), 16, 32)
	if !ok || errors.Join(err, err1, err2) != nil || inode == 0 {
		return ""
	}
	return files[file{unix.Mkdev(uint32(high), uint32(low)), inode}]
}

// gone reports whether a process has ended meanwhile.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }
