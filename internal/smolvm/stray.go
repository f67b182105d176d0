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
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/cgroup"
)

// A stray is a machine's VMM that is not in any machine's cgroup: an earlier
// release of the agent started it, or somebody started it by hand. Its command
// line names the machine. Since anybody can write such a command line, it
// counts only if the process runs this node's smolvm, either as root or as the
// user who owns the machine's folder.
//
// A process can make readers of its command line block forever, by backing
// that memory with a file system of its own. The command line is therefore read
// last, and only for processes that passed all other checks, which the kernel
// answers by itself.

// errNoStray means that a process is not, or is no longer, a machine's stray.
var errNoStray = errors.New("not a VMM of the machine")

// strays finds the living strays of these machines.
func (d *Driver) strays(ctx context.Context, names []string) ([]machineProcess, error) {
	return d.straysExcept(ctx, names, nil)
}

// straysExcept finds the living strays of these machines among all processes but
// the members of their cgroups.
//
// It does not cache which processes are not strays: smolvm turns an existing
// process into a VMM by exec. Nearly all processes are not strays, so the
// cheapest check comes first.
func (d *Driver) straysExcept(ctx context.Context, names []string, members map[int]bool) (found []machineProcess, err error) {
	smolvm, err := d.installed()
	if err != nil {
		return nil, err
	}
	c := sync.OnceValue(func() claims { return d.claimsOn(names) })
	err = eachPID(func(pid int) error {
		if members[pid] || !smolvm.runs(pid) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		in, err := d.machineOf(pid)
		if err == nil && in != "" {
			return nil
		}
		if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		ticks, ok, err := ticksOf(pid)
		if err != nil || !ok {
			return err
		}
		p := process{pid, ticks}
		name, err := c().machine(pid)
		if err != nil && !gone(err) {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		if err == nil && name != "" && d.isStray(smolvm, machineProcess{p, name}) {
			found = append(found, machineProcess{p, name})
		}
		return nil
	})
	return found, err
}

// gone reports whether a file of a process could not be read because the
// process has ended.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// claims says which processes can belong to some machines.
type claims struct {
	users    map[uint64]bool
	machines map[string]string // by their folders
}

func (d *Driver) claimsOn(names []string) claims {
	c := claims{users: map[uint64]bool{0: true}, machines: make(map[string]string, len(names))}
	for _, name := range names {
		dir := d.dataDir(name)
		c.machines[dir] = name
		c.users[ownerOf(dir)] = true
	}
	return c
}

// machine returns the machine that the process's command line names. It returns
// "" if any of the process's user IDs is not one of the users, or if it names
// none of the machines.
func (c claims) machine(pid int) (string, error) {
	ids, err := usersOf(pid)
	if err != nil || slices.ContainsFunc(ids, func(id uint64) bool { return !c.users[id] }) {
		return "", err
	}
	dir, err := bootFolder(pid)
	return c.machines[dir], err
}

// isStray checks all conditions again and reports whether s is still a stray of
// its machine.
func (d *Driver) isStray(smolvm program, s machineProcess) bool {
	if in, err := d.machineOf(s.pid); err != nil || in != "" {
		return false
	}
	name, err := d.claimsOn([]string{s.name}).machine(s.pid)
	return err == nil && name == s.name && smolvm.runs(s.pid) &&
		s.alive() // last: it proves that everything above was read from this process
}

// machineOf returns the machine that owns the cgroup of a process; "" if the
// process is not in a machine's cgroup. A process cannot leave its cgroup, so
// this holds whatever its command line says.
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

// program is the installed smolvm, in all its versions: a machine keeps the one that it
// was started with. It is not safe for concurrent use.
type program struct {
	// paths and files are the programs. files lacks those that were removed.
	paths []string
	files []inode
	// link has room for the target of /proc/PID/exe.
	link []byte
}

type inode struct {
	major, minor uint32
	number       uint64
}

// versionsFolder is the name of the folder in which bottle-install puts versions, each in
// a folder of its own. Before that, smolvm was in the folder above it.
const versionsFolder = "versions"

// maxVersions bounds the versions that are looked at.
const maxVersions = 64

func (d *Driver) installed() (program, error) {
	p := program{link: make([]byte, unix.PathMax)}
	path, err := filepath.EvalSymlinks(d.binary())
	if errors.Is(err, os.ErrNotExist) { // removed, but running processes go on
		path, err = d.binary(), nil
	}
	if err != nil {
		return p, err
	}
	for _, path := range append([]string{path}, otherVersions(path)...) {
		p.paths = append(p.paths, path)
		id, err := inodeOf(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return p, err
		}
		p.files = append(p.files, id)
	}
	return p, nil
}

// otherVersions returns the paths of the other versions of the program at path, if that is
// in …/versions/VERSION. Versions that were removed are not listed: bottle-install removes
// none that a process runs.
func otherVersions(path string) []string {
	versions := filepath.Dir(filepath.Dir(path))
	if filepath.Base(versions) != versionsFolder {
		return nil
	}
	others := []string{filepath.Join(filepath.Dir(versions), filepath.Base(path))}
	f, err := os.Open(versions)
	if err != nil {
		return others
	}
	defer f.Close()
	names, _ := f.Readdirnames(maxVersions)
	for _, name := range names {
		if other := filepath.Join(versions, name, filepath.Base(path)); other != path {
			others = append(others, other)
		}
	}
	return others
}

// runs reports whether a process runs the program, or a file that had the
// program's path before it was replaced. In the second case only the path is
// left to compare. A path proves nothing about a process in a container, which
// may have any file at that path, so such a process must not be in a container.
func (p program) runs(pid int) bool {
	exe := procFile(pid, "exe")
	if id, err := inodeOf(exe); err != nil || slices.Contains(p.files, id) {
		return err == nil
	}
	n, err := unix.Readlink(exe, p.link)
	if err != nil {
		return false
	}
	path, deleted := bytes.CutSuffix(p.link[:n], []byte(" (deleted)"))
	return deleted && slices.Contains(p.paths, string(path)) && inOurNamespaces(pid)
}

// inOurNamespaces reports whether a process is in the pid and user namespaces
// of this process. A process in a container is not, whatever its user IDs and
// command line look like. Mount namespaces are no evidence: smolvm gives some
// VMMs a mount namespace of their own.
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

// inodeOf returns the identity of the file at path. It never waits for the file
// system.
func inodeOf(path string) (inode, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return inode{st.Dev_major, st.Dev_minor, st.Ino}, err
}

// ownerOf returns the user ID of the owner of a machine's folder; root's if the
// folder does not exist.
func ownerOf(dir string) uint64 {
	if info, err := os.Lstat(dir); err == nil && info.IsDir() {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			return uint64(st.Uid)
		}
	}
	return 0
}

// usersOf returns the real, effective, saved and file system user IDs of a
// process. The owner of its folder in /proc is not enough: a process can make
// root the owner.
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

// adopt moves a stray into its machine's cgroup. The error is errNoStray if s
// is not, or is no longer, a stray of its machine.
func (d *Driver) adopt(g *cgroup.Groups, s machineProcess) error {
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
	// Add moves a wrong process only if the PID was reused between isStray and
	// Add. The kernel goes through all PIDs before it reuses one.
	if !s.alive() {
		return errNoStray
	}
	return nil
}

// maxCmdline is more than a VMM's argv needs: the path of smolvm and the path
// of a file below its home.
const maxCmdline = 8 << 10

// bootFolder returns the machine's folder that the command line of a process
// names. smolvm executes itself again as `_boot-vm FOLDER/boot-config.json`.
// For any other command line it returns "".
func bootFolder(pid int) (string, error) {
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
	return parseBootFolder(cmdline[:n]), nil
}

func parseBootFolder(cmdline []byte) string {
	_, rest, _ := bytes.Cut(cmdline, []byte{0})
	config, ok := bytes.CutPrefix(rest, []byte("_boot-vm\x00"))
	if !ok {
		return ""
	}
	config, _, _ = bytes.Cut(config, []byte{0})
	return filepath.Dir(string(config))
}
