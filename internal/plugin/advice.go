// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"regexp"
	"strings"
	"sync"

	"botbottle.dev/bottle-operator/docs"
)

// advice is what the documentation says about a reason.
type advice struct {
	means string // from conditions.md
	do    string // from failures.md; "" if the condition's message is enough
}

var (
	tableRow = regexp.MustCompile("(?m)^\\| (`[A-Za-z0-9`, ]+`) \\| (.*) \\|$")
	link     = regexp.MustCompile(`\[([^\]]*)\]\(([^)]*)\)`)
)

// adviceFor returns what the documentation says about a reason. The pages are part of
// the program.
func adviceFor(reason string) advice { return allAdvice()[reason] }

var allAdvice = sync.OnceValue(func() map[string]advice {
	found := map[string]advice{}
	page, _, _ := strings.Cut(docs.Failures, "\n## ") // only the table of reasons
	for _, m := range tableRow.FindAllStringSubmatch(page, -1) {
		where, do, ok := strings.Cut(m[2], " | ")
		if !ok || !strings.Contains(where, "`") {
			continue
		}
		for reason := range strings.SplitSeq(m[1], ", ") {
			reason = strings.Trim(reason, "`")
			one := found[reason]
			one.do = plain(do)
			found[reason] = one
		}
	}
	_, page, _ = strings.Cut(docs.Conditions, "\n## Reasons")
	for _, m := range tableRow.FindAllStringSubmatch(page, -1) {
		reason := strings.Trim(m[1], "`")
		one := found[reason]
		if one.means == "" {
			one.means = plain(m[2])
		}
		found[reason] = one
	}
	return found
})

// plain returns the text of failures.md without its markup.
func plain(text string) string {
	text = link.ReplaceAllStringFunc(text, func(whole string) string {
		m := link.FindStringSubmatch(whole)
		file, _, _ := strings.Cut(m[2], "#")
		switch {
		case file == "":
			return "docs/failures.md"
		case file == m[1]:
			return "docs/" + file
		}
		return m[1] + " (docs/" + file + ")"
	})
	return strings.NewReplacer("`", "", "*", "").Replace(text)
}
