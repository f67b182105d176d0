// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/cgroup"
)

// A stray is a machine's VMM that is in no machine's cgroup: an earlier
// release of the agent started it, or somebody by hand. Its command line says
// of which machine, and anybody can write that; it counts only when the
// process runs this node's smolvm as the user to whom the machine's folder
// belongs, or as root.
//
// A process can make whoever reads its command line wait for ever, by putting
// a file system of its own behind that memory. It is therefore read last, of
// processes that passed all else, which the kernel answers by itself.

// errNoStray means that a process is not, or is no longer, a machine's stray.
var errNoStray = errors.New("not a VMM of the machine")

// strays finds the living strays of these machines.
//
// It remembers nothing of processes that are none: smolvm becomes a VMM by
// exec, in a process that was there before.
func (d *Driver) strays(ctx context.Context, names []string) ([]vmmOf, error) {
	smolvm, err := d.installed()
	if err != nil {
		return nil, err
	}
	dirs := make(map[string]string, len(names))
	users := map[uint64]bool{0: true}
	for _, name := range names {
		dir := d.dataDir(name)
		dirs[dir] = name
		users[ownerOf(dir)] = true
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []vmmOf
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !smolvm.runs(pid) {
			continue
		}
		ticks, ok, err := ticksOf(pid)
		if err != nil {
			return nil, err
		}
		c := process{pid, ticks}
		name, err := d.claims(c, users, dirs)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		if ok && err == nil && name != "" && d.isStray(smolvm, vmmOf{c, name}) {
			found = append(found, vmmOf{c, name})
		}
	}
	return found, nil
}

// gone reports whether a file of a process could not be read because the
// process has ended.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// claims is the machine that a process outside every machine's cgroup says it
// is the VMM of, if it is of one of these users; "" otherwise.
func (d *Driver) claims(p process, users map[uint64]bool, machines map[string]string) (string, error) {
	in, err := d.machineOf(p.pid)
	if err != nil || in != "" {
		return "", err
	}
	of, err := usersOf(p.pid)
	if err != nil || slices.ContainsFunc(of, func(u uint64) bool { return !users[u] }) {
		return "", err
	}
	dir, err := bootsFrom(p.pid)
	return machines[dir], err
}

// isStray reports whether s still proves to be a stray of its machine.
func (d *Driver) isStray(smolvm program, s vmmOf) bool {
	owner := ownerOf(d.dataDir(s.name))
	name, err := d.claims(s.process, map[uint64]bool{0: true, owner: true}, map[string]string{d.dataDir(s.name): s.name})
	return err == nil && name == s.name && smolvm.runs(s.pid) &&
		s.alive() // last: all of this was read of the process that it is about
}

// machineOf is the machine in whose cgroup a process is, to which it belongs
// for good, whatever its command line says; "" when it is in none.
func (d *Driver) machineOf(pid int) (string, error) {
	g, err := d.cgroups()
	if errors.Is(err, cgroup.ErrNoHierarchy) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return g.Of(pid)
}

// program is the installed smolvm.
type program struct {
	path string
	file inode
}

type inode struct {
	major, minor uint32
	number       uint64
}

func (d *Driver) installed() (program, error) {
	path, err := filepath.EvalSymlinks(d.binary())
	if errors.Is(err, os.ErrNotExist) { // what runs it, runs on
		return program{path: d.binary()}, nil
	}
	if err != nil {
		return program{}, err
	}
	id, err := inodeOf(path)
	return program{path, id}, err
}

// runs reports whether a process runs the program, or did before the file was
// replaced. That file is gone, and a name can be of another mount namespace: a
// container can call its program as it likes. So of such a process it must be
// certain that it is in no container.
func (p program) runs(pid int) bool {
	exe := procFile(pid, "exe")
	if id, err := inodeOf(exe); err != nil || id == p.file {
		return err == nil
	}
	path, err := os.Readlink(exe)
	return err == nil && path == p.path+" (deleted)" && inOurNamespaces(pid)
}

// inOurNamespaces reports whether a process is in this process's pid and user
// namespaces. A container is not, whatever it makes its users and command line
// look like. (Mount namespaces tell nothing: smolvm gives some
// VMMs one of their own.)
func inOurNamespaces(pid int) bool {
	for _, ns := range []string{"ns/pid", "ns/user"} {
		ours, err := os.Readlink("/proc/self/" + ns)
		if err != nil {
			return false
		}
		if theirs, err := os.Readlink(procFile(pid, ns)); err != nil || theirs != ours {
			return false
		}
	}
	return true
}

// inodeOf never waits for the file's file system.
func inodeOf(path string) (inode, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return inode{st.Dev_major, st.Dev_minor, st.Ino}, err
}

// ownerOf is the user to whom a machine's folder belongs; root when there is
// none.
func ownerOf(dir string) uint64 {
	if info, err := os.Lstat(dir); err == nil && info.IsDir() {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			return uint64(st.Uid)
		}
	}
	return 0
}

// usersOf are the real, effective, saved and file system user IDs of a
// process. The owner of its folder in /proc would not do: a process can make
// that root.
func usersOf(pid int) ([]uint64, error) {
	b, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return nil, err
	}
	return parseUsers(b)
}

func parseUsers(status []byte) ([]uint64, error) {
	for line := range bytes.Lines(status) {
		rest, ok := strings.CutPrefix(string(line), "Uid:")
		if !ok {
			continue
		}
		var users []uint64
		for _, word := range strings.Fields(rest) {
			user, err := strconv.ParseUint(word, 10, 32)
			if err != nil {
				return nil, err
			}
			users = append(users, user)
		}
		if len(users) == 4 {
			return users, nil
		}
	}
	return nil, errors.New("no user IDs")
}

// adopt moves a stray into its machine's cgroup. The error is errNoStray when
// it does not prove to be one.
func (d *Driver) adopt(g *cgroup.Groups, s vmmOf) error {
	smolvm, err := d.installed()
	if err != nil || !d.isStray(smolvm, s) {
		return errNoStray
	}
	err = g.Add(s.name, s.pid)
	if errors.Is(err, unix.ESRCH) {
		return errNoStray
	}
	if err != nil {
		return err
	}
	// Its number would have to become another's between the two calls for
	// another to be moved: the kernel goes through all numbers first.
	if !s.alive() {
		return errNoStray
	}
	return nil
}

// maxCmdline is more than a VMM's argv takes: smolvm's path and that of a file
// below its home.
const maxCmdline = 8 << 10

// bootsFrom is the folder of the machine that a process boots by its command
// line, that of the re-executed smolvm: `_boot-vm FOLDER/boot-config.json`; ""
// for any other.
func bootsFrom(pid int) (string, error) {
	f, err := os.Open(procFile(pid, "cmdline"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	cmdline := make([]byte, maxCmdline)
	n, err := f.Read(cmdline)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return parseBoots(cmdline[:n]), nil
}

func parseBoots(cmdline []byte) string {
	_, rest, _ := bytes.Cut(cmdline, []byte{0})
	config, ok := bytes.CutPrefix(rest, []byte("_boot-vm\x00"))
	if !ok {
		return ""
	}
	config, _, _ = bytes.Cut(config, []byte{0})
	return filepath.Dir(string(config))
}
