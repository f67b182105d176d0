// SPDX-License-Identifier: Apache-2.0

package needle

import (
	"slices"
	"strings"
)

// value is a text to look for, and the Secrets that contain it.
type value struct {
	text    []byte
	hits    []Hit
	unknown bool // to the sender
}

// isIn reports whether one of the named Secrets contains the value.
func (v *value) isIn(names []string) bool {
	return slices.ContainsFunc(v.hits, func(h Hit) bool { return slices.Contains(names, h.Name) })
}

// needle is a value in one form: a number of characters, which are computed when they
// are needed, because most of them never are.
type needle struct {
	value *value
	form  form
	skip  int // base64: how many bits of the value precede the first character
	n     int // number of characters
}

type form uint8

const (
	plain form = iota
	base64
	hex
)

// needles returns the forms of the value.
func (v *value) needles() []*needle {
	out := []*needle{{value: v, form: plain, n: len(v.text)}}
	if len(v.text) < MinMasked {
		return out // its other forms occur by chance
	}
	out = append(out, &needle{value: v, form: hex, n: 2 * len(v.text)})
	for before := range 3 { // bytes before the value in its first group of three
		first := (8*before + 5) / 6 // the first character that only the value determines
		out = append(out, &needle{value: v, form: base64, skip: 6*first - 8*before, n: 8*(before+len(v.text))/6 - first})
	}
	return out
}

const (
	base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	hexDigits    = "0123456789abcdef"
)

// char returns the character at place i in its first spelling.
func (n *needle) char(i int) byte {
	switch n.form {
	case hex:
		return hexDigits[n.value.text[i/2]>>(4-4*(i%2))&15]
	case base64:
		bit := n.skip + 6*i
		two := uint(n.value.text[bit/8]) << 8
		if bit/8+1 < len(n.value.text) {
			two |= uint(n.value.text[bit/8+1])
		}
		return base64Digits[two>>(10-bit%8)&63]
	}
	return n.value.text[i]
}

// spellings returns the unescaped spellings of a character: those of both alphabets
// of base64, both cases of hex, and the plus sign for a space.
func (f form) spellings(c byte) string {
	switch {
	case f == plain && c == ' ':
		return " +"
	case f == base64 && c == '+':
		return "+-"
	case f == base64 && c == '/':
		return "/_"
	case f == hex && c >= 'a':
		return string([]byte{c, c - 'a' + 'A'})
	}
	return string([]byte{c})
}

// accepts reports whether got is an unescaped spelling of c.
func (f form) accepts(c, got byte) bool {
	return c == got || (f != plain || c == ' ') && strings.IndexByte(f.spellings(c), got) >= 0
}

// wraps reports whether line breaks may interrupt the form.
func (f form) wraps() bool { return f != plain }
