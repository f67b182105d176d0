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

// maxText bounds, in bytes, the text of a registry in a condition.
const maxText = 400

// Patterns of secrets that a server may include in its response.
var (
	tokenText = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}|\beyJ[A-Za-z0-9_-]{8,}[A-Za-z0-9._-]*`)
	urlText   = regexp.MustCompile(`\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>]+`)
)

// requestText removes what net/http puts before the cause.
var requestText = strings.NewReplacer(`Get "[URL]": `, "", `Head "[URL]": `, "", `Post "[URL]": `, "")

// clean turns text from another party into one bounded, printable line. It
// removes URLs, which may carry tokens in the query and passwords before the
// host, and also tokens and the given secrets.
func clean(s string, secrets ...string) string {
	// Replace the longest first: one secret may be a prefix of another.
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
