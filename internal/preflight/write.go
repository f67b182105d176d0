// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Formats are the formats of Write.
var Formats = []string{"text", "json"}

// Write writes the report in a format: text, a table with one line for each check, or
// json, one object.
func (r Report) Write(w io.Writer, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case "text":
		return r.writeText(w)
	}
	return fmt.Errorf("format %q: want text or json", format)
}

func (r Report) writeText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "RESULT\tCHECK\tFOUND")
	count := map[Outcome]int{}
	for _, c := range r.Checks {
		count[c.Outcome]++
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Outcome, c.Name, oneLine(c.Message))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d ok, %d with a warning, %d failed\n", count[OK], count[Warning], count[Failure])
	return err
}

// oneLine joins the lines of a message, such as those of several errors.
func oneLine(message string) string { return strings.ReplaceAll(message, "\n", "; ") }
