// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds, in bytes, the text about a registry in a condition. The name of
// the registry, which the Bottle chose, is part of it.
const maxText = 400

// clean turns text into one bounded, printable line.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// bytesText formats a size for people, with at most one decimal.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, i := float64(n)/unit, 0
	for value >= unit && i < 3 {
		value /= unit
		i++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + " " + []string{"KiB", "MiB", "GiB", "TiB"}[i]
}
