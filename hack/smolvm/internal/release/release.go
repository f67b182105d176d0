// SPDX-License-Identifier: Apache-2.0

// Package release determines which release of smolvm the stand-in emulates. It
// only parses and compares versions; the commands implement the differences.
package release

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Reference is the release that is emulated by default.
const Reference = "1.32.2"

// Release is a version of smolvm. The zero value is older than every release.
type Release struct{ major, minor, patch int }

var form = regexp.MustCompile(`^(\d{1,4})\.(\d{1,4})\.(\d{1,4})$`)

// Parse parses a version like "1.32.2". Any other format is an error.
func Parse(s string) (Release, error) {
	m := form.FindStringSubmatch(s)
	if m == nil {
		return Release{}, fmt.Errorf("version %q: want three numbers like %s", s, Reference)
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // at most four digits each
	}
	return Release{n[0], n[1], n[2]}, nil
}

// MustParse is Parse for constants.
func MustParse(s string) Release {
	r, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return r
}

func (r Release) String() string { return fmt.Sprintf("%d.%d.%d", r.major, r.minor, r.patch) }

// AtLeast reports whether r is the release since or newer. An empty since is
// older than every release.
func (r Release) AtLeast(since string) bool {
	if since == "" {
		return true
	}
	o := MustParse(since)
	return cmp.Or(cmp.Compare(r.major, o.major), cmp.Compare(r.minor, o.minor), cmp.Compare(r.patch, o.patch)) >= 0
}

// Current returns the release to emulate: $SMOLVM_STANDIN_VERSION, or else the
// content of the file standin-version next to the executable, or else Reference.
func Current() (Release, error) {
	if v := os.Getenv("SMOLVM_STANDIN_VERSION"); v != "" {
		return Parse(v)
	}
	if exe, err := os.Executable(); err == nil {
		if b, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "standin-version")); err == nil {
			return Parse(strings.TrimSpace(string(b)))
		}
	}
	return Parse(Reference)
}
