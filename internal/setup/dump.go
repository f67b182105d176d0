// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// forbidCoreDumps keeps the values of Secrets that this process has in memory out of core
// dumps, and lets only root read its memory. Programs that it starts are not affected.
func forbidCoreDumps() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}
