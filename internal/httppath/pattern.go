// SPDX-License-Identifier: Apache-2.0

package httppath

import (
	"errors"
	"strings"
)

// MaxPatternLength is the length in bytes of the longest pattern in normal form. The API
// allows 256 characters; this leaves room for their escapes.
const MaxPatternLength = 1024

// Pattern is a path glob. "*" stands for any characters within a segment, and "**"
// for any characters, including slashes; as a whole segment, "*" stands for one
// segment and "**" for any number of them, including none. Patterns are comparable,
// and two spellings of the same pattern are equal. The zero Pattern matches nothing.
type Pattern struct{ text string }

// ParsePattern parses a pattern and brings it into normal form. The error says what is
// wrong, and quotes nothing.
func ParsePattern(text string) (Pattern, error) {
	if !strings.HasPrefix(text, "/") {
		return Pattern{}, errors.New(`a path pattern begins with "/"`)
	}
	if strings.Contains(text, "***") {
		return Pattern{}, errors.New(`a path pattern contains "*" or "**", not more stars in a row`)
	}
	normal, err := normalize(text)
	if err != nil {
		return Pattern{}, err
	}
	spelled, err := respell(text)
	if err != nil {
		return Pattern{}, err
	}
	if len(spelled) > MaxPatternLength {
		return Pattern{}, errors.New("a path pattern has at most 1,024 characters after escaping")
	}
	if spelled != normal {
		return Pattern{}, errors.New(`a path pattern contains no empty segment, no "." and no ".."`)
	}
	return Pattern{text: normal}, nil
}

// String returns the pattern in its normal form. ParsePattern returns the same
// pattern for it.
func (p Pattern) String() string { return p.text }

// Match reports whether the pattern matches a path in normal form. Servers read some
// paths in more than one way: they may decode an escaped slash, drop the parameters
// that follow a semicolon, or end the path at an escaped question mark or number
// sign. The pattern must match such a path as it is and as each of them reads it,
// where the pattern is read in the same way.
func (p Pattern) Match(path string) bool {
	if p.text == "" || !match(p.text, path) {
		return false
	}
	if !strings.ContainsAny(path, "%;") {
		return true
	}
	for _, read := range readings {
		if !match(read(p.text), read(path)) {
			return false
		}
	}
	return true
}
