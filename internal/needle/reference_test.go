// SPDX-License-Identifier: Apache-2.0

package needle_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// reference is a slow implementation of what the package promises, which tries each
// spelling at each place.
type reference struct {
	chars []string // the raw spellings of each character
	wraps bool
	texts [][]string // all spellings of each character
}

var known = map[string][]reference{}

// references returns one reference for each form of the value.
func references(value string) []reference {
	if known[value] == nil {
		known[value] = newReferences(value)
		for i := range known[value] {
			known[value][i].prepare()
		}
	}
	return known[value]
}

func newReferences(value string) []reference {
	plain := reference{}
	for _, c := range []byte(value) {
		spellings := string([]byte{c})
		if c == ' ' {
			spellings += "+"
		}
		plain.chars = append(plain.chars, spellings)
	}
	out := []reference{plain}
	if len(value) < 6 {
		return out
	}
	digits := reference{wraps: true}
	for _, c := range hex.EncodeToString([]byte(value)) {
		digits.chars = append(digits.chars, string(c)+strings.ToUpper(string(c)))
	}
	out = append(out, digits)
	for before := range 3 {
		// The characters that stay the same whatever precedes and follows the value.
		all := func(fill string) string {
			return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, before) + value + strings.Repeat(fill, 5)))
		}
		a, b := all("\x00"), all("\xff")
		r := reference{wraps: true}
		for i := range (4*(before+len(value)) + 2) / 3 {
			if a[i] == b[i] {
				r.chars = append(r.chars, strings.NewReplacer("+", "+-", "/", "/_").Replace(a[i:i+1]))
			}
		}
		out = append(out, r)
	}
	return out
}

var cache [256][]string

// escapes returns the escaped spellings of a character.
func escapes(c byte) []string {
	if cache[c] == nil {
		cache[c] = newEscapes(c)
	}
	return cache[c]
}

func newEscapes(c byte) []string {
	var out []string
	lower, upper := fmt.Sprintf("%02x", c), fmt.Sprintf("%02X", c)
	codes := []string{lower, upper, lower[:1] + upper[1:], upper[:1] + lower[1:]}
	for _, code := range codes {
		out = append(out, "%"+code, `\x`+code)
		if c < 0x80 {
			out = append(out, `\u00`+code)
		}
	}
	if i := strings.IndexByte("\"\\/'\b\f\n\r\t", c); i >= 0 {
		out = append(out, `\`+"\"\\/'bfnrt"[i:i+1])
	}
	switch c {
	case '&':
		out = append(out, "&amp;")
	case '<':
		out = append(out, "&lt;")
	case '>':
		out = append(out, "&gt;")
	case '"':
		out = append(out, "&quot;")
	case '\'':
		out = append(out, "&apos;")
	}
	for zeros := range 6 {
		for _, number := range []string{fmt.Sprintf("%d", c), fmt.Sprintf("x%x", c), fmt.Sprintf("X%X", c), fmt.Sprintf("x%X", c), fmt.Sprintf("X%x", c)} {
			digits := strings.TrimLeft(number, "xX")
			entity := "&#" + number[:len(number)-len(digits)] + strings.Repeat("0", zeros) + digits + ";"
			if c < 0x80 && len(entity) <= 8 {
				out = append(out, entity)
			}
		}
	}
	return out
}

// prepare fills in the spellings of each character.
func (r *reference) prepare() {
	for _, chars := range r.chars {
		var out []string
		for _, c := range []byte(chars) {
			out = append(append(out, string([]byte{c})), escapes(c)...)
		}
		r.texts = append(r.texts, out)
	}
}

var lineBreaks = append(append([]string{"\n", "\r"}, newEscapes('\n')...), newEscapes('\r')...)

// follow returns where the needle ends that begins at the beginning of text, for each
// way of reading it, and whether all of text is the beginning of a longer one.
func (r reference) follow(text string) (ends []int, partial bool) {
	type state struct{ at, char, breaks int }
	seen := map[state]bool{}
	var visit func(state)
	visit = func(s state) {
		if seen[s] {
			return
		}
		seen[s] = true
		if s.char == len(r.chars) {
			ends = append(ends, s.at)
			return
		}
		rest := text[s.at:]
		if rest == "" {
			partial = partial || s.at > 0
			return
		}
		try := func(spelling string, next state) {
			switch {
			case strings.HasPrefix(rest, spelling):
				next.at = s.at + len(spelling)
				visit(next)
			case strings.HasPrefix(spelling, rest):
				partial = true
			}
		}
		for _, spelling := range r.texts[s.char] {
			try(spelling, state{char: s.char + 1})
		}
		if r.wraps && s.char > 0 && s.breaks < 2 {
			for _, spelling := range lineBreaks {
				try(spelling, state{char: s.char, breaks: s.breaks + 1})
			}
		}
	}
	visit(state{})
	return ends, partial
}

// mask returns text with all values masked.
func mask(values []string, text string) string {
	out := []byte(text)
	for _, value := range values {
		if len(value) < 6 {
			continue
		}
		for _, r := range references(value) {
			for start := range text {
				ends, _ := r.follow(text[start:])
				for _, end := range ends {
					copy(out[start:], strings.Repeat("*", end))
				}
			}
		}
	}
	return string(out)
}

// held returns the length of the longest suffix of text that is the beginning of a
// value.
func held(values []string, text string) int {
	for start := range len(text) {
		for _, value := range values {
			for _, r := range references(value) {
				if _, partial := r.follow(text[start:]); partial {
					return len(text) - start
				}
			}
		}
	}
	return 0
}

// contains reports whether text contains a value.
func contains(value, text string) bool {
	for _, r := range references(value) {
		for start := range len(text) {
			if ends, _ := r.follow(text[start:]); len(ends) > 0 {
				return true
			}
		}
	}
	return false
}
