// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
)

// startIn calls start, which forks, on a thread in the network namespace of the
// file netns. "" means the namespace of this process.
func startIn(netns string, start func() error) error {
	if netns == "" {
		return start()
	}
	f, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNetNS, err)
	}
	defer f.Close()
	return ownthread.Run(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNetNS, f.Name(), err)
		}
		return start()
	})
}
