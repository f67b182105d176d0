// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrInUse: another agent works on the state directory.
var ErrInUse = errors.New("another agent uses the state directory")

// Lock keeps other agents off the state directory, for as long as the process
// lives: two would start one machine twice. ErrInUse when there is one.
func (d *Dir) Lock() error {
	f, err := os.OpenFile(filepath.Join(d.root, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w %s", ErrInUse, d.root)
		}
		return fmt.Errorf("lock the state directory: %w", err)
	}
	d.lock = f
	return nil
}
