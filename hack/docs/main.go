// SPDX-License-Identifier: Apache-2.0

// Command docs generates reference pages from the API's source. It reads files
// below the current directory and writes only to standard output.
//
// usage: go run ./hack/docs conditions
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"strconv"
	"strings"
)

const source = "api/v1alpha1/condition_types.go"

func main() {
	if len(os.Args) != 2 || os.Args[1] != "conditions" {
		fmt.Fprintln(os.Stderr, "usage: docs conditions")
		os.Exit(2)
	}
	if err := writeConditions(os.Stdout, source); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

// writeConditions writes a table for each const block of the file. The first
// sentence of the block's comment is the heading, the rest is the text below it.
// The rows show the value and the meaning of each constant.
func writeConditions(w io.Writer, path string) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	fmt.Fprint(w, "# Conditions and reasons\n\nFor users and operators: what each condition and each reason of a Bottle means. [failures.md](failures.md) says what to do where the message of the condition is not enough.\n")
	fmt.Fprintf(w, "\nGenerated from %s by `make generate`; do not edit.\n", path)
	for _, decl := range file.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		heading, rest, _ := strings.Cut(sentence(block.Doc), ".")
		fmt.Fprintf(w, "\n## %s\n", heading)
		if rest = strings.TrimSpace(rest); rest != "" {
			fmt.Fprintf(w, "\n%s\n", rest)
		}
		fmt.Fprint(w, "\n| value | meaning |\n|---|---|\n")
		for _, spec := range block.Specs {
			if err := writeRow(w, spec.(*ast.ValueSpec)); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeRow(w io.Writer, spec *ast.ValueSpec) error {
	name := spec.Names[0].Name
	value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	doc := sentence(spec.Doc)
	if doc == "" {
		return fmt.Errorf("%s: has no comment", name)
	}
	doc = strings.TrimLeft(strings.TrimPrefix(doc, name), ": ")
	fmt.Fprintf(w, "| `%s` | %s |\n", value, strings.ReplaceAll(doc, "|", "\\|"))
	return nil
}

// sentence returns the text of a comment on one line.
func sentence(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
