// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// shared are the namespaces that the Pod must have in common with the node, and the field
// of its spec that says so. A process cannot move itself to another pid namespace, and
// the kubelet's probes reach only the node's network.
var shared = []struct{ name, field string }{
	{"pid", "hostPID: true"},
	{"net", "hostNetwork: true"},
	{"user", "hostUsers: true"},
}

// entered are the namespaces that the agent enters. The last one is mnt, because it
// changes what is at every path. Without cgroup, the agent would see the hierarchy from
// its Pod, and could not place machines outside of it.
var entered = []struct {
	name string
	kind int
}{
	{"cgroup", unix.CLONE_NEWCGROUP},
	{"ipc", unix.CLONE_NEWIPC},
	{"uts", unix.CLONE_NEWUTS},
	{"mnt", unix.CLONE_NEWNS},
}

// enter moves the calling thread, which must be locked, into the namespaces of a
// process. init is the process's folder in a /proc.
func enter(init string) error {
	for _, ns := range shared {
		same, err := inNamespace(init, ns.name)
		if err != nil {
			return fmt.Errorf("the node's namespaces: %w", err)
		}
		if !same {
			return fmt.Errorf("the Pod is not in the node's %s namespace: its spec must have %s", ns.name, ns.field)
		}
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, ns := range entered { // open all of them before any is entered
		f, err := os.Open(filepath.Join(init, "ns", ns.name))
		if err != nil {
			return fmt.Errorf("the node's namespaces: %w", err)
		}
		files = append(files, f)
	}
	// The threads of a process share a root and a working directory, and as long as they
	// do, the kernel lets none of them enter a mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads' working directory: %w", err)
	}
	for i, ns := range entered {
		if err := unix.Setns(int(files[i].Fd()), ns.kind); err != nil {
			if errors.Is(err, unix.EPERM) {
				err = fmt.Errorf("%w: the container must be privileged", err)
			}
			return fmt.Errorf("enter the node's %s namespace: %w", ns.name, err)
		}
	}
	return nil
}

// inNamespace reports whether this thread and a process are in the same namespace.
func inNamespace(process, name string) (bool, error) {
	theirs, err := idOf(filepath.Join(process, "ns", name))
	if err != nil {
		return false, err
	}
	ours, err := idOf("/proc/thread-self/ns/" + name)
	return ours == theirs, err
}
