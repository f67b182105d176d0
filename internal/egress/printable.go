// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxShownHost is how many characters of a host are shown: more than real hosts
// have, and few enough for a readable line.
const MaxShownHost = 64

// Printable returns untrusted text as printable ASCII of at most the given number
// of characters. Other characters are escaped as in a Go string, and no escape is
// cut in two. Printable does not change text that it returned before.
func Printable(text string, most int) string {
	out, _ := escape(text, most, ' ')
	return out
}

// PrintableHost is Printable for a host: at most MaxShownHost characters, and no
// white space, so that a host always shows as one word. A host that was cut has exactly
// MaxShownHost characters: dots take the place of an escape that does not fit.
func PrintableHost(host string) string {
	out, whole := escape(host, MaxShownHost, '!')
	if !whole {
		out += strings.Repeat(".", MaxShownHost-len(out))
	}
	return out
}

// escape escapes all characters except those from lowest to "~". It reports whether all of
// the text is in what it returns.
func escape(text string, most int, lowest byte) (string, bool) {
	var out strings.Builder
	for len(text) > 0 && out.Len() < most {
		_, n := utf8.DecodeRuneInString(text)
		piece := text[:n]
		text = text[n:]
		if n > 1 || piece[0] < lowest || piece[0] > '~' {
			piece = escaped(piece)
		}
		if out.Len()+len(piece) > most {
			return out.String(), false
		}
		out.WriteString(piece)
	}
	return out.String(), text == ""
}

// escaped returns the escape for one character.
func escaped(char string) string {
	if char == " " { // QuoteToASCII does not escape it
		return `\x20`
	}
	quoted := strconv.QuoteToASCII(char)
	return quoted[1 : len(quoted)-1]
}
