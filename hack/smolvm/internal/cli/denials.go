// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

// denialLog is the file in which a real VMM logs the connections that it denied.
// The stand-in enforces nothing and never writes it, but a test may.
const denialLog = "egress-denials.log"

// denial is a denied operation in the format of `egress-events --json`.
type denial struct {
	Timestamp string `json:"timestamp"`
	Operation string `json:"operation"`
	Dest      string `json:"dest"`
}

var denialForm = regexp.MustCompile(`egress policy denied (connect|sendto) (?:to )?(.*)$`)

// egressEvents lists the most recent denials, oldest first. An unknown machine is
// not an error.
func (a *app) egressEvents(args *cmdline.Args) error {
	limit := 200
	if args.Has("limit") {
		limit = number(args, "limit")
	}
	all, err := readDenials(filepath.Join(a.store.Dir(target(args)), denialLog))
	if err != nil {
		return err
	}
	all = all[max(0, len(all)-limit):]
	if args.Has("json") {
		return a.printJSON(all)
	}
	if len(all) == 0 {
		fmt.Fprintf(a.stdout, "No egress denials recorded for '%s'.\n", target(args))
		return nil
	}
	fmt.Fprintf(a.stdout, "%-30s %-9s %s\n", "TIMESTAMP", "OP", "DESTINATION")
	for _, d := range all {
		fmt.Fprintf(a.stdout, "%-30s %-9s %s\n", d.Timestamp, d.Operation, d.Dest)
	}
	return nil
}

// readDenials parses the lines that report a denial. The timestamp is the text
// after a "[" at the start of the line, if there is one.
func readDenials(path string) ([]denial, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return []denial{}, nil
	}
	if err != nil {
		return nil, state.Rust(err)
	}
	all := []denial{}
	for line := range strings.Lines(string(b)) {
		m := denialForm.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		d := denial{Operation: m[1], Dest: m[2]}
		if rest, ok := strings.CutPrefix(line, "["); ok {
			d.Timestamp, _, _ = strings.Cut(rest, " ")
		}
		all = append(all, d)
	}
	return all, nil
}
