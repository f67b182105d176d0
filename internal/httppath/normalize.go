// SPDX-License-Identifier: Apache-2.0

// Package httppath brings the path of a request into the one form that the bundle
// checks and sends, and matches it against the path globs of a rule. It refuses
// paths that servers are known to read in different ways. It is pure, and it looks
// at nothing but the path: not at the host, and not at the query.
package httppath

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxLength is the length in bytes of the longest path that is accepted.
const MaxLength = 8 << 10

// Errors say what makes a path ambiguous. They never quote the path, which may
// contain a secret.
var (
	errNoPath     = errors.New("the request's target is not a path")
	errTooLong    = errors.New("the path is longer than 8 KiB")
	errSpelling   = errors.New("the path and its escaped form disagree")
	errFragment   = errors.New("the path contains a fragment or a query")
	errEscape     = errors.New("the path contains an invalid percent-escape")
	errControl    = errors.New("the path contains a control character")
	errBackslash  = errors.New("the path contains a backslash")
	errTwice      = errors.New("the path contains a character that is percent-encoded twice")
	errUTF8       = errors.New("the path is not valid UTF-8")
	errLookalike  = errors.New("the path contains a character that some servers read as a slash, a backslash, a percent sign or a semicolon")
	errDotSegment = errors.New(`the path contains a segment that some servers read as "." or ".."`)
)

// Normalize returns the escaped path of u in its normal form. In that form,
// unreserved characters are never escaped and all others are escaped unless a path
// may contain them, escapes are in upper case, and there are no empty segments
// (except after a slash at the end) and no dot segments. An escaped slash stays
// escaped. Normalize returns an error if servers are known to disagree on what the
// path means. The normal form of a normal form is itself.
func Normalize(u *url.URL) (string, error) {
	raw := u.RawPath
	switch {
	case u.Opaque != "":
		return "", errNoPath
	case u.Fragment != "" || u.RawFragment != "":
		return "", errFragment
	case raw == "":
		raw = u.EscapedPath()
	case raw != u.Path:
		if decoded, err := url.PathUnescape(raw); err == nil && decoded != u.Path {
			return "", errSpelling
		}
	}
	if raw == "" {
		raw = "/"
	}
	return normalize(raw)
}

// Apply makes path, a normal form, the path of u, so that u.EscapedPath returns it.
func Apply(u *url.URL, path string) error {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return err
	}
	u.Path, u.RawPath = decoded, path
	return nil
}

func normalize(raw string) (string, error) {
	if len(raw) > MaxLength {
		return "", errTooLong
	}
	if !strings.HasPrefix(raw, "/") {
		return "", errNoPath
	}
	spelled, err := respell(raw)
	if err != nil {
		return "", err
	}
	if err := checkMeaning(spelled); err != nil {
		return "", err
	}
	path := removeDotSegments(spelled)
	if len(path) > MaxLength {
		return "", errTooLong
	}
	return path, nil
}

// respell returns the path with each character either plain or escaped in upper
// case, depending only on the character.
func respell(raw string) (string, error) {
	var b strings.Builder
	b.Grow(len(raw))
	for i := 0; i < len(raw); i++ {
		c, escaped := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return "", errEscape
			}
			c, escaped = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		switch {
		case c < ' ' || c == 0x7f:
			return "", errControl
		case c == '\\':
			return "", errBackslash
		case !escaped && (c == '?' || c == '#'):
			return "", errFragment
		case isUnreserved(c), !escaped && isPathByte(c):
			b.WriteByte(c)
		default:
			const digits = "0123456789ABCDEF"
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String(), nil
}

// checkMeaning returns an error if servers disagree on what a respelled path means.
func checkMeaning(path string) error {
	if !strings.ContainsAny(path, "%;.") {
		return nil
	}
	for rest := path; ; {
		_, after, found := strings.Cut(rest, "%25")
		if !found {
			break
		}
		if len(after) >= 2 && isHex(after[0]) && isHex(after[1]) || strings.HasPrefix(after, "u") || strings.HasPrefix(after, "U") {
			return errTwice
		}
		rest = after
	}
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return errEscape
	}
	if !utf8.ValidString(decoded) {
		return errUTF8
	}
	for _, r := range decoded {
		if unicode.IsControl(r) {
			return errControl
		}
		if r >= utf8.RuneSelf && strings.ContainsRune(lookalikes, r) {
			return errLookalike
		}
	}
	// A segment ends at a plain slash, and for some servers at an escaped one.
	for segment := range strings.SplitSeq(path, "/") {
		parts := strings.Split(segment, "%2F")
		if len(parts) == 1 && (segment == "." || segment == "..") {
			continue // a plain dot segment, which is removed
		}
		for _, part := range parts {
			if looksLikeDots(part) {
				return errDotSegment
			}
		}
	}
	return nil
}

// lookalikes are characters that a conversion to ASCII (Unicode's compatibility
// forms, or the best fit of old Windows code pages) turns into / \ % or ;.
const lookalikes = "\u2044\u2215\u29f8\uff0f\u2571\u2216\u29f5\u29f9\ufe68\uff3c\uff05\ufe6a\u066a\u037e\uff1b\ufe54"

// dots are characters that a conversion to ASCII turns into one or more dots.
const dots = ".\u2024\u2025\u2026\u3002\ufe52\uff0e\uff61\ufe19\u00b7"

// looksLikeDots reports whether some server reads the segment as a dot segment: it
// has no more than dots and spaces before its parameters.
func looksLikeDots(segment string) bool {
	decoded, err := url.PathUnescape(segment)
	if err != nil {
		return true
	}
	decoded, _, _ = strings.Cut(decoded, ";")
	seen := false
	for _, r := range decoded {
		switch {
		case strings.ContainsRune(dots, r):
			seen = true
		case !unicode.IsSpace(r) && !unicode.Is(unicode.Cf, r):
			return false
		}
	}
	return seen
}

// removeDotSegments removes empty segments and plain dot segments. A ".." at the root
// stays at the root.
func removeDotSegments(path string) string {
	if !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		return path
	}
	var kept []string
	last := ""
	for segment := range strings.SplitSeq(path, "/") {
		last = segment
		switch segment {
		case "", ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			kept = append(kept, segment)
		}
	}
	out := "/" + strings.Join(kept, "/")
	if len(kept) > 0 && (last == "" || last == "." || last == "..") {
		out += "/"
	}
	return out
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}

func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// isPathByte reports whether a path may contain the reserved character unescaped
// (RFC 3986: pchar and the slash).
func isPathByte(c byte) bool { return strings.IndexByte("!$&'()*+,;=:@/", c) >= 0 }
