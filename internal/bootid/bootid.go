// SPDX-License-Identifier: Apache-2.0

// Package bootid identifies the boot of this node. It does not detect a reboot: its callers
// compare.
package bootid

import (
	"fmt"
	"os"
	"strings"
)

// Read returns the kernel's random identifier of this boot.
func Read() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("identify the boot of the node: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
