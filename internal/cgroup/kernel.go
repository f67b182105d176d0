// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// kernel is what tests without a hierarchy imitate.
type kernel struct {
	// made is called with the folder of each new cgroup.
	made func(dir string) error
	// rmdir removes a cgroup.
	rmdir func(dir string) error
	// setMark and hasMark write and check the mark of a machine's cgroup in a Pod.
	setMark func(dir, parent string) error
	hasMark func(dir, parent string) bool
}

var realKernel = kernel{
	made: func(string) error { return nil }, rmdir: unix.Rmdir,
	setMark: setMark, hasMark: hasMark,
}

// mark is the extended attribute that a machine's cgroup in a Pod has, with the parent's
// path as its value. Only root can set it: without it, a cgroup is no machine's, whatever
// its name is. Agents that share a hierarchy have different parents, so that each finds
// only its own machines.
const mark = "trusted.bottle-parent"

func setMark(dir, parent string) error { return unix.Lsetxattr(dir, mark, []byte(parent), 0) }

func hasMark(dir, parent string) bool {
	value := make([]byte, len(parent)+1) // a longer value is an error
	n, err := unix.Lgetxattr(dir, mark, value)
	return err == nil && string(value[:n]) == parent
}

// At is like Open, but uses a folder that only looks like a hierarchy, for tests.
// It calls made with the folder of each new cgroup; made creates the files that
// the kernel would create.
func At(mount, parent string, made func(dir string) error) (*Groups, error) {
	g, err := open(hierarchy{mount, "/"}, parent)
	if err == nil {
		g.kernel = kernel{made: made, rmdir: os.RemoveAll, setMark: setMarkFile, hasMark: hasMarkFile}
	}
	return g, err
}

// setMarkFile marks a folder by a file in it, because not every file system and user can
// set the attribute.
func setMarkFile(dir, parent string) error {
	return os.WriteFile(filepath.Join(dir, mark), []byte(parent), 0o600)
}

func hasMarkFile(dir, parent string) bool {
	b, err := os.ReadFile(filepath.Join(dir, mark))
	return err == nil && string(b) == parent
}
