// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxShownHost is how many characters of a host are shown anywhere: more than
// a host that is meant has, and few enough for a line that somebody reads.
const MaxShownHost = 64

// Printable is what somebody else wrote, as printable ASCII of at most the
// given number of characters: any other character is escaped as in a Go
// string, and an escape is never cut in two. What it returned stays as it is
// when it goes through again.
func Printable(text string, most int) string { return escape(text, most, ' ') }

// PrintableHost is Printable for a host: MaxShownHost characters, and no white
// space, by which one host could pass for several words.
func PrintableHost(host string) string { return escape(host, MaxShownHost, '!') }

// escape keeps the characters from lowest to "~".
func escape(text string, most int, lowest byte) string {
	var out strings.Builder
	for len(text) > 0 && out.Len() < most {
		_, n := utf8.DecodeRuneInString(text)
		piece := text[:n]
		text = text[n:]
		if n > 1 || piece[0] < lowest || piece[0] > '~' {
			piece = escaped(piece)
		}
		if out.Len()+len(piece) > most {
			break
		}
		out.WriteString(piece)
	}
	return out.String()
}

// escaped is one character that is not shown as it is.
func escaped(char string) string {
	if char == " " { // which Go's strings have no escape for
		return `\x20`
	}
	quoted := strconv.QuoteToASCII(char)
	return quoted[1 : len(quoted)-1]
}
