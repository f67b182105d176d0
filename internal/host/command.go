// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"strings"
)

// Bounds of a command that comes from an image or an artifact.
const (
	maxCommandArgs  = 1024
	maxCommandBytes = 64 << 10
)

// CheckCommand returns ErrInvalid if an image's own command cannot be passed to smolvm.
// The error quotes nothing of it.
func CheckCommand(command []string) error {
	size := 0
	for i, arg := range command {
		if strings.ContainsRune(arg, 0) {
			return fmt.Errorf("the image's command: word %d contains a NUL: %w", i+1, ErrInvalid)
		}
		size += len(arg)
	}
	if len(command) > maxCommandArgs || size > maxCommandBytes {
		return fmt.Errorf("the image's command: %d words, %d bytes, want at most %d and %d: set spec.command: %w",
			len(command), size, maxCommandArgs, maxCommandBytes, ErrInvalid)
	}
	return nil
}
