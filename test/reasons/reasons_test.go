// SPDX-License-Identifier: Apache-2.0

// Package reasons checks the reasons of conditions and Events: each reason that
// the code uses is documented, and each documented reason is used by the code and
// expected by at least one test.
package reasons

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// production returns all code that runs in a cluster. Reasons in test equipment
// need no documentation.
func production(t *testing.T) *source {
	t.Helper()
	s := newSource()
	s.parse(t, func(path string) bool {
		return !strings.HasSuffix(path, "_test.go") && !regexp.MustCompile(`/(hosttest|hostcontract|dockertest)/`).MatchString(path)
	}, "api", "controllers", "internal", "cmd")
	s.index()
	return s
}

// documented returns the reasons in the tables of docs/conditions.md.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs/conditions.md"))
	if err != nil {
		t.Fatal(err)
	}
	return tables(string(page))
}

// tables returns the values in the tables of a page's sections about reasons.
func tables(page string) map[string]bool {
	found := map[string]bool{}
	for section := range strings.SplitSeq(page, "\n## ") {
		if !strings.HasPrefix(section, "Reasons ") {
			continue
		}
		for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z0-9]+)` \\| ").FindAllStringSubmatch(section, -1) {
			found[m[1]] = true
		}
	}
	return found
}

func TestEachUsedReasonIsDocumented(t *testing.T) {
	pages, set := documented(t), production(t).set()
	for _, reason := range slices.Sorted(maps.Keys(set)) {
		if !pages[reason] {
			t.Errorf("%s: uses the reason %s, but docs/conditions.md lacks it: add it to api/v1alpha1/condition_types.go and run make generate", set[reason], reason)
		}
	}
}

func TestEachDocumentedReasonIsUsed(t *testing.T) {
	set := production(t).set()
	for _, reason := range slices.Sorted(maps.Keys(documented(t))) {
		if _, ok := set[reason]; !ok {
			t.Errorf("docs/conditions.md has the reason %s, but no code uses it", reason)
		}
	}
}

func TestEachConstantIsDocumented(t *testing.T) {
	pages := documented(t)
	for name, value := range production(t).consts {
		if strings.HasPrefix(name, "v1alpha1.Reason") && !pages[value] {
			t.Errorf("docs/conditions.md lacks %s (%s): run make generate", value, name)
		}
	}
}

func TestEachReasonIsExpectedByATest(t *testing.T) {
	tests := newSource()
	tests.parse(t, func(path string) bool {
		return !strings.Contains(path, "/test/reasons/") && !strings.Contains(path, "/test/kstatus/")
	}, "api", "controllers", "internal", "test")
	tests.index()
	only := newSource()
	only.consts = tests.consts
	for _, file := range tests.files {
		if path := tests.fset.Position(file.Pos()).Filename; strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/test/story/") {
			only.files = append(only.files, file)
		}
	}
	expected := only.expected()
	for _, reason := range slices.Sorted(maps.Keys(documented(t))) {
		if !expected[reason] {
			t.Errorf("no test expects the reason %s, want one that does, as in \"False/%s\" or wantEvent(%q)", reason, reason, reason)
		}
	}
}

// TestSet checks which expressions count as setting a reason and which only
// compare it.
func TestSet(t *testing.T) {
	const code = `package p
const (
	ReasonUsed     = "Used"
	ReasonCompared = "Compared"
	ReasonUnused   = "Unused"
	eventPassed    = "Passed"
	eventUnused    = "NotPassed"
	ReasonAlias    = ReasonUnused
)
type options struct{ Event func(uid, reason, message string) }
type condition struct{ Type, Reason string }
func warn(s *scope, reason, message string) {}
func f(c condition) any {
	warn(nil, eventPassed, "text")
	warn(nil, "Literal", "Message")
	o.Event("uid", "Field", "message")
	r.Eventf(b, nil, "Warning", "Recorded", "Acting", "text")
	reason := "Assigned"
	c.Reason = "Stored"
	if c.Reason == ReasonCompared || known[ReasonCompared] { return nil }
	switch c.Reason { case ReasonCompared: return map[string]bool{ReasonCompared: true} }
	return condition{Type: "Type", Reason: "Composed"}
}
func g() string { return ReasonUsed }
func h() any { return condition{Reason: "no reason but words"} }
`
	s := newSource()
	s.add(t, "p.go", code)
	s.index()
	want := []string{"Assigned", "Composed", "Field", "Literal", "Passed", "Recorded", "Stored", "Used"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(s.set()))); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

// TestExpected checks which expressions count as expecting a reason.
func TestExpected(t *testing.T) {
	const code = `package p
func f() {
	c := condition{Reason: "SetUp"}
	wantCond("Ready", "False/Slashed")
	want := []string{"Ready True Spaced 2"}
	w.wantEvent("Emitted")
	events("Listed")
	found := e.Reason == "Compared"
	log("Mentioned")
}
`
	s := newSource()
	s.add(t, "p_test.go", code)
	s.index()
	want := []string{"Compared", "Emitted", "Listed", "Slashed", "Spaced"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(s.expected()))); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

// A condition type with the same name as a reason does not count as a reason.
func TestTables(t *testing.T) {
	page := "# Title\n\n## Condition types\n\n| `Ready` | a type |\n\n## Reasons of Ready\n\n| value | meaning |\n|---|---|\n| `Pending` | waits |\n"
	if diff := cmp.Diff(map[string]bool{"Pending": true}, tables(page)); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}
