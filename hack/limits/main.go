// SPDX-License-Identifier: Apache-2.0

// Command limits checks that packages, files and types stay small enough to
// read as a whole. It reads the Go files below the given folders, except tests
// and generated files, and lists what is too large on standard output.
//
// usage: go run ./hack/limits [-package-lines N] FOLDER…
package main

import (
	"bytes"
	"errors"
	"flag"
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

// The limits for each package, file and type. The first is a default.
const (
	maxPackageLines = 3000
	maxFileLines    = 350
	maxMethods      = 20
)

func main() {
	packageLines := flag.Int("package-lines", maxPackageLines, "how many lines a package may have")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: limits [-package-lines N] FOLDER…")
		os.Exit(2)
	}
	found, err := check(os.Stdout, flag.Args(), *packageLines)
	if err != nil {
		fmt.Fprintln(os.Stderr, "limits:", err)
		os.Exit(2)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// check lists everything that is too large and returns the number of findings.
// A folder that does not exist yields no findings.
func check(w io.Writer, folders []string, packageLines int) (int, error) {
	s := sizes{packages: map[string]int{}, files: map[string]int{}, methods: map[string]int{}}
	for _, folder := range folders {
		err := filepath.WalkDir(folder, s.add)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
	}
	found := 0
	for _, limit := range []struct {
		sizes map[string]int
		max   int
		unit  string
	}{
		{s.packages, packageLines, "lines in the package"},
		{s.files, maxFileLines, "lines in the file"},
		{s.methods, maxMethods, "methods on the type"},
	} {
		for _, name := range slices.Sorted(maps.Keys(limit.sizes)) {
			if n := limit.sizes[name]; n > limit.max {
				found++
				fmt.Fprintf(w, "%s: %d %s, want at most %d\n", name, n, limit.unit, limit.max)
			}
		}
	}
	return found, nil
}

// sizes counts the lines of packages and files, and the methods of types.
type sizes struct{ packages, files, methods map[string]int }

// add is a fs.WalkDirFunc that counts one file.
func (s sizes) add(path string, d fs.DirEntry, err error) error {
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
	s.files[path] = lines
	s.packages[folder] += lines
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if ok && f.Recv != nil {
			s.methods[folder+"."+receiver(f.Recv.List[0].Type)]++
		}
	}
	return nil
}

// receiver returns the name of a receiver's type, without pointer and type parameters.
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
