// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// CheckName rejects the names that smolvm rejects, with smolvm's error texts.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("machine name cannot be empty")
	}
	if n := len(name); n > 128 {
		return fmt.Errorf("machine name too long: %d characters (max 128)", n)
	}
	first, _ := utf8.DecodeRuneInString(name)
	if !alphanumeric(first) {
		return fmt.Errorf("machine name must start with a letter or digit (got: %q)", name)
	}
	if strings.HasSuffix(name, "-") {
		return fmt.Errorf("machine name cannot end with a hyphen (got: %q)", name)
	}
	var last rune
	for _, c := range name {
		switch {
		case c == '-' && last == '-':
			return fmt.Errorf("machine name cannot contain consecutive hyphens")
		case c == '/' || c == '\\':
			return fmt.Errorf("machine name cannot contain path separators")
		case !alphanumeric(c) && c != '-' && c != '_':
			return fmt.Errorf("machine name contains invalid character: '%c'", c)
		}
		last = c
	}
	return nil
}

func alphanumeric(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
