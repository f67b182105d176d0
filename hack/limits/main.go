// SPDX-License-Identifier: Apache-2.0

// Command limits checks that packages, files and types stay small enough to be
// read as a whole. It reads the Go files below the folders given, tests and
// generated files excepted, and writes what is too large to standard output.
//
// usage: go run ./hack/limits FOLDER…
package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The limits, each of one package, file or type.
const (
	mostPackageLines = 3000
	mostFileLines    = 350
	mostMethods      = 20
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: limits FOLDER…")
		os.Exit(2)
	}
	found, err := check(os.Stdout, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "limits:", err)
		os.Exit(2)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// check writes each thing that is too large and returns how many there are. A
// folder that does not exist has none.
func check(w io.Writer, folders []string) (int, error) {
	m := measured{packages: map[string]int{}, files: map[string]int{}, methods: map[string]int{}}
	for _, folder := range folders {
		err := filepath.WalkDir(folder, m.add)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	found := 0
	for _, limit := range []struct {
		of   map[string]int
		most int
		unit string
	}{
		{m.packages, mostPackageLines, "lines in the package"},
		{m.files, mostFileLines, "lines in the file"},
		{m.methods, mostMethods, "methods on the type"},
	} {
		for _, name := range slices.Sorted(maps.Keys(limit.of)) {
			if n := limit.of[name]; n > limit.most {
				found++
				fmt.Fprintf(w, "%s: %d %s, want at most %d\n", name, n, limit.unit, limit.most)
			}
		}
	}
	return found, nil
}

// measured are the sizes found: lines of packages and files, methods of types.
type measured struct{ packages, files, methods map[string]int }

func (m measured) add(path string, d fs.DirEntry, err error) error {
	if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments)
	if err != nil {
		return err
	}
	if ast.IsGenerated(file) {
		return nil
	}
	lines, folder := bytes.Count(text, []byte("\n")), filepath.Dir(path)
	m.files[path] = lines
	m.packages[folder] += lines
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if ok && f.Recv != nil {
			m.methods[folder+"."+receiver(f.Recv.List[0].Type)]++
		}
	}
	return nil
}

// receiver is the name of a receiver's type, without pointer and parameters.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}
