// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// pages are the documents whose links are checked, from the root of the repository.
var pages = []string{"*.md", "docs/*.md", "docs/adr/*.md", "charts/*/*.md", "hack/*/*.md"}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```")
)

// TestLinks checks that each link to a file of the repository leads to one, and each link
// to a heading to a heading.
func TestLinks(t *testing.T) {
	root := ".."
	var files []string
	for _, pattern := range pages {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	checked := 0
	for _, file := range files {
		for _, m := range link.FindAllStringSubmatch(textOf(t, file), -1) {
			target := m[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			checked++
			path, anchor, _ := strings.Cut(target, "#")
			other := file
			if path != "" {
				other = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(other); err != nil {
				t.Errorf("%s: link %s: got %v, want a file", file, target, err)
				continue
			}
			if anchor != "" && !anchors(textOf(t, other))[anchor] {
				t.Errorf("%s: link %s: got no such heading, want one", file, target)
			}
		}
	}
	if checked < 100 {
		t.Errorf("got %d links in %d pages, want many more: has the form of links changed?", checked, len(files))
	}
}

// textOf returns a page without its blocks of code.
func textOf(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fence.ReplaceAllString(string(data), "")
}

// anchors returns the names by which GitHub links to the headings of a page.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		title := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, title)
		unique := name
		for i := 1; all[unique]; i++ {
			unique = name + "-" + strconv.Itoa(i)
		}
		all[unique] = true
	}
	return all
}
