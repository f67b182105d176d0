// SPDX-License-Identifier: Apache-2.0

package needle

import (
	"strconv"
	"strings"
)

// maxEscape is the length in bytes of the longest escape.
const maxEscape = 8

// escape is a beginning of an escape, or an entire one.
type escape struct {
	text [maxEscape]byte
	n    uint8
}

func (e escape) String() string { return string(e.text[:e.n]) }

// opensEscape reports whether an escape may begin with c.
func opensEscape(c byte) bool { return c == '%' || c == '\\' || c == '&' }

type progress int

const (
	invalid progress = iota
	incomplete
	complete
)

// add appends a byte. If the escape is then complete, it returns the character that it
// stands for.
func (e *escape) add(b byte) (byte, progress) {
	if e.n == maxEscape {
		return 0, invalid
	}
	e.text[e.n] = b
	e.n++
	text := e.text[:e.n]
	if e.n == 1 {
		return 0, incomplete
	}
	switch text[0] {
	case '%':
		return hexByte(text[1:])
	case '\\':
		return backslash(text[1:])
	}
	return entity(text[1:])
}

// hexByte reads two hex digits.
func hexByte(text []byte) (byte, progress) {
	v := 0
	for _, c := range text {
		digit := strings.IndexByte(hexDigits, lower(c))
		if digit < 0 {
			return 0, invalid
		}
		v = v<<4 | digit
	}
	if len(text) < 2 {
		return 0, incomplete
	}
	return byte(v), complete
}

// shortMeans is what a character means after a backslash; 0 for nothing.
var shortMeans = [256]byte{
	'"': '"', '\\': '\\', '/': '/', '\'': '\'', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// backslash reads what follows a backslash in JSON, and in the languages that resemble it.
func backslash(text []byte) (byte, progress) {
	switch text[0] {
	case 'x':
		return hexByte(text[1:])
	case 'u':
		for i, c := range text[1:] {
			if i < 2 && c != '0' || i == 2 && c > '7' {
				return 0, invalid // not in ASCII
			}
		}
		if len(text) <= 3 {
			return 0, incomplete
		}
		return hexByte(text[3:])
	}
	if c := shortMeans[text[0]]; c != 0 {
		return c, complete
	}
	return 0, invalid
}

var entities = map[byte]string{'&': "amp;", '<': "lt;", '>': "gt;", '"': "quot;", '\'': "apos;"}

// entity reads what follows an ampersand in HTML.
func entity(text []byte) (byte, progress) {
	if text[0] != '#' {
		for c, name := range entities {
			switch {
			case name == string(text):
				return c, complete
			case strings.HasPrefix(name, string(text)):
				return 0, incomplete
			}
		}
		return 0, invalid
	}
	digits, base := string(text[1:]), 10
	if digits != "" && lower(digits[0]) == 'x' {
		digits, base = digits[1:], 16
	}
	number, ended := strings.CutSuffix(digits, ";")
	if number == "" && !ended {
		return 0, incomplete
	}
	v, err := strconv.ParseUint(number, base, 7) // in ASCII
	switch {
	case err != nil:
		return 0, invalid
	case ended:
		return byte(v), complete
	case len(text) == maxEscape-1:
		return 0, invalid // there is no room for the semicolon
	}
	return 0, incomplete
}

// mayBecome reports whether the beginning of an escape can be completed to one that
// stands for c.
func (e escape) mayBecome(c byte) bool {
	if e.n == 0 {
		return true
	}
	text, code := e.String(), hexDigits[c>>4:c>>4+1]+hexDigits[c&15:c&15+1]
	switch {
	case text[0] == '%':
		return prefixOf(text[1:], code)
	case text == "\\":
		return true // as \x
	case text[0] == '\\':
		return prefixOf(text[1:], "x"+code) || c < 0x80 && prefixOf(text[1:], "u00"+code)
	case text == "&":
		return c < 0x80
	case text[1] != '#':
		return prefixOf(text[1:], entities[c])
	case c >= 0x80:
		return false
	}
	digits := text[2:]
	number := strconv.Itoa(int(c))
	if digits == "" {
		return true
	}
	if lower(digits[0]) == 'x' {
		digits, number = digits[1:], strconv.FormatUint(uint64(c), 16)
	}
	return fillsUp(digits, number, maxEscape-len(text))
}

// fillsUp reports whether digits can be completed to the number, with zeros before it
// and a semicolon after it, within room bytes.
func fillsUp(digits, number string, room int) bool {
	significant := strings.TrimLeft(digits, "0")
	if significant == "" && number == "0" && digits != "" {
		return room >= 1
	}
	return prefixOf(significant, number) && room >= len(number)-len(significant)+1
}

// prefixOf reports whether text begins with start, whatever the case of start.
func prefixOf(start, text string) bool {
	return len(start) <= len(text) && strings.EqualFold(start, text[:len(start)])
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
