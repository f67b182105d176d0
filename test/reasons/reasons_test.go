// SPDX-License-Identifier: Apache-2.0

// Package reasons keeps the API's promise whole: what a condition can say is
// said in some test, and is in the pages that users look it up in.
package reasons

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// constants of the API whose name begins with prefix, with their values.
func constants(t *testing.T, prefix string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "api/v1alpha1/condition_types.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, prefix) {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found[spec.Names[0].Name] = value
		return true
	})
	if len(found) == 0 {
		t.Fatalf("found no constant %s…", prefix)
	}
	return found
}

func TestEachReasonIsReachedByATest(t *testing.T) {
	var tests strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "bin" || d.Name() == ".git" || d.Name() == "reasons") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			tests.Write(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range constants(t, "Reason") {
		// As a constant, or in the tables' shorthand of status and reason.
		said := `v1alpha1\.` + name + `\b|(True|False|Unknown)[/ ]` + value + `\b|"` + value + `"`
		if !regexp.MustCompile(said).MatchString(tests.String()) {
			t.Errorf("%s: no test expects v1alpha1.%s, %q or False/%s, want one that reaches it", name, name, value, value)
		}
	}
}

func TestEachReasonAndConditionIsGenerated(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/conditions.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"Reason", "Condition"} {
		for name, value := range constants(t, prefix) {
			if !strings.Contains(string(page), "| `"+value+"` |") {
				t.Errorf("docs/conditions.md lacks %s (%s): run make generate", value, name)
			}
		}
	}
}
