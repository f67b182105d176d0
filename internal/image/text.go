// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds what a registry may say in a condition.
const maxText = 400

// Shapes of secrets that a server may have put into its answer.
var (
	tokenText = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}|\beyJ[A-Za-z0-9_-]{8,}[A-Za-z0-9._-]*`)
	urlText   = regexp.MustCompile(`\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>]+`)
)

// requestText is what net/http puts before the cause.
var requestText = strings.NewReplacer(`Get "[URL]": `, "", `Head "[URL]": `, "", `Post "[URL]": `, "")

// clean makes one bounded, printable line of what somebody else wrote: without
// URLs, which carry tokens in their queries and passwords before their hosts,
// without tokens, and without the given secrets.
func clean(s string, secrets ...string) string {
	// The longest first: one may be the beginning of another.
	secrets = slices.SortedFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) })
	for _, secret := range secrets {
		s = strings.ReplaceAll(s, secret, "[hidden]")
	}
	s = urlText.ReplaceAllString(s, "[URL]")
	s = requestText.Replace(s)
	s = tokenText.ReplaceAllString(s, "[hidden]")
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

// bytesText is a size for people, with at most one decimal.
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
