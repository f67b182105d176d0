// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/untrusted"
)

// openedBySmolvm lists the files in a machine's folder that smolvm opens by name
// as root, following links. Even "ls" reads name (1.9.1 and 1.32.2) and
// vmm-exit.json (1.32.2) of every running machine, and blocks forever if one of
// them is a FIFO.
var openedBySmolvm = []string{
	"name", "agent.pid", "agent.config.json", "boot-config.json", "vmm-exit.json", "vm.lock",
	"storage.raw", "storage.qcow2", "overlay.raw", "overlay.qcow2", "storage.formatted", "overlay.formatted",
	"agent-console.log", "agent-startup-error.log", "workload.log", ".pack-shared",
}

// removePlanted removes from the machines' folders what smolvm would block on or
// follow: FIFOs and links. smolvm itself never creates them there, but the user
// that a VMM runs as can write to its folder.
//
// A living VMM can plant them again immediately. Calls of smolvm then block
// until they time out, until that VMM is killed.
func (d *Driver) removePlanted() error {
	vms := filepath.Join(d.opts.Home, vmsDir)
	machines, err := os.ReadDir(vms)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("folders of machines: %w: %w", host.ErrUnavailable, err)
	}
	for _, m := range machines {
		if !m.IsDir() || m.Name() == sharedDir {
			continue
		}
		err := untrusted.RemovePlanted(vms, m.Name(), openedBySmolvm)
		mounted := errors.Is(err, unix.EXDEV) // by root: a VMM's user cannot mount
		if err != nil && !mounted && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("folder of a machine: %w: %w", host.ErrUnavailable, err)
		}
	}
	return nil
}
