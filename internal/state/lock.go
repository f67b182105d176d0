// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrInUse means that another agent uses the state directory.
var ErrInUse = errors.New("another agent uses the state directory")

// Lock locks the state directory until the process ends, because two agents would
// start the same machine twice. The error is ErrInUse if another agent holds the
// lock.
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
