// SPDX-License-Identifier: Apache-2.0

package boottrial

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/ownthread"
)

// Isolate makes a network namespace that has no name and no link but a loopback interface
// that is down. The namespace ends after release, with the last process in it.
func Isolate() (path string, release func(), err error) {
	var ns *os.File
	err = ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), func() { ns.Close() }, nil
}
