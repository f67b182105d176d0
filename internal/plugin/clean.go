// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// maxShown is how many characters of one text of the cluster are shown: more than a
// condition's message may have.
const maxShown = 32768

// clean returns text that somebody else wrote as one line without anything that a
// terminal would act on: control and format characters, such as those that change the
// direction of text, appear as escapes.
func clean(text string) string { return escape(text, "") }

// cleanLines is like clean, but keeps line breaks and tabs.
func cleanLines(text string) string { return escape(text, "\n\t") }

func escape(text, keep string) string {
	var out strings.Builder
	for len(text) > 0 {
		if out.Len() >= maxShown {
			out.WriteString("…")
			break
		}
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&out, `\x%02x`, text[0])
		case unicode.IsPrint(r) || strings.ContainsRune(keep, r):
			out.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[n:]
	}
	return out.String()
}

// table writes rows in columns, as kubectl does. All cells are cleaned.
func table(w io.Writer, rows [][]string) error {
	out := tabwriter.NewWriter(w, 6, 4, 3, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = clean(cell)
		}
		fmt.Fprintln(out, strings.Join(cells, "\t"))
	}
	return out.Flush()
}
