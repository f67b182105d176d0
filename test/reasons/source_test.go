// SPDX-License-Identifier: Apache-2.0

package reasons

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is parsed Go code. It is not type-checked: functions and packages are
// identified by the last part of their names.
type source struct {
	fset  *token.FileSet
	files []*ast.File
	// consts maps PACKAGE.NAME to the value of a string constant.
	consts map[string]string
	// params maps PACKAGE.FUNCTION to the positions of its parameters that are
	// called "reason".
	params map[string][]int
}

func newSource() *source {
	return &source{fset: token.NewFileSet(), consts: map[string]string{}, params: map[string][]int{}}
}

// parse adds the Go files below folders for whose path wanted returns true.
func (s *source) parse(t *testing.T, wanted func(path string) bool, folders ...string) {
	t.Helper()
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(root, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || !wanted(path) {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s.add(t, path, string(text))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s *source) add(t *testing.T, path, text string) {
	t.Helper()
	file, err := parser.ParseFile(s.fset, path, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.files = append(s.files, file)
}

// index fills consts and params. Call it after all files have been added.
func (s *source) index() {
	for range 2 { // a constant may be an alias of another
		for _, file := range s.files {
			s.inspect(file, func(n ast.Node, _ []ast.Node) {
				switch n := n.(type) {
				case *ast.GenDecl:
					if n.Tok == token.CONST {
						s.addConsts(file, n)
					}
				case *ast.FuncDecl:
					s.addParams(file.Name.Name+"."+n.Name.Name, n.Type)
				case *ast.Field: // of a struct or an interface
					if f, ok := n.Type.(*ast.FuncType); ok && len(n.Names) == 1 {
						s.addParams(file.Name.Name+"."+n.Names[0].Name, f)
					}
				}
			})
		}
	}
}

func (s *source) addConsts(file *ast.File, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		v := spec.(*ast.ValueSpec)
		for i, name := range v.Names {
			if i < len(v.Values) {
				if value, ok := s.value(file, v.Values[i]); ok {
					s.consts[file.Name.Name+"."+name.Name] = value
				}
			}
		}
	}
}

func (s *source) addParams(name string, f *ast.FuncType) {
	position := 0
	for _, field := range f.Params.List {
		for _, param := range field.Names {
			if param.Name == "reason" && !slices.Contains(s.params[name], position) {
				s.params[name] = append(s.params[name], position)
			}
			position++
		}
		if len(field.Names) == 0 {
			position++
		}
	}
}

// positions returns the positions of a function's parameters that are called
// "reason". If the file's package has no function of that name, it returns those
// of the functions of that name in all other packages.
func (s *source) positions(file *ast.File, name string) []int {
	if name == "Eventf" { // from client-go, which is not parsed
		return []int{3}
	}
	if own, ok := s.params[file.Name.Name+"."+name]; ok {
		return own
	}
	var all []int
	for function, positions := range s.params {
		if strings.HasSuffix(function, "."+name) {
			all = append(all, positions...)
		}
	}
	return all
}

// value returns the value of a string literal or a constant.
func (s *source) value(file *ast.File, e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		value, err := strconv.Unquote(e.Value)
		return value, err == nil
	case *ast.Ident:
		value, ok := s.consts[file.Name.Name+"."+e.Name]
		return value, ok
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			value, ok := s.consts[x.Name+"."+e.Sel.Name]
			return value, ok
		}
	}
	return "", false
}

// inspect visits every node with its ancestors, the nearest last.
func (s *source) inspect(file *ast.File, visit func(n ast.Node, above []ast.Node)) {
	var above []ast.Node
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			above = above[:len(above)-1]
			return true
		}
		visit(n, above)
		above = append(above, n)
		return true
	})
}

var camelCase = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)

// set returns the reasons that the code sets in conditions and Events, with one
// position for each. A constant called Reason… counts wherever it is used, except
// where it is only compared. Any other string counts if it is the argument for a
// parameter, or the value of a field or variable, that is called reason.
func (s *source) set() map[string]string {
	found := map[string]string{}
	for _, file := range s.files {
		record := func(e ast.Expr) {
			if value, ok := s.value(file, e); ok && camelCase.MatchString(value) {
				found[value] = s.fset.Position(e.Pos()).String()
			}
		}
		s.inspect(file, func(n ast.Node, above []ast.Node) {
			switch n := n.(type) {
			case *ast.CallExpr:
				for _, position := range s.positions(file, lastName(n.Fun)) {
					if position < len(n.Args) {
						record(n.Args[position])
					}
				}
			case *ast.KeyValueExpr:
				if isReason(n.Key) {
					record(n.Value)
				}
			case *ast.AssignStmt:
				for i, left := range n.Lhs {
					if isReason(left) && i < len(n.Rhs) {
						record(n.Rhs[i])
					}
				}
			case *ast.SelectorExpr, *ast.Ident:
				e := n.(ast.Expr)
				if strings.HasPrefix(lastName(e), "Reason") && sets(e, above) {
					record(e)
				}
			}
		})
	}
	return found
}

// sets reports whether an expression passes its value on, instead of only being
// compared with another or used as a map key.
func sets(e ast.Expr, above []ast.Node) bool {
	parent := above[len(above)-1]
	for _, n := range above {
		if decl, ok := n.(*ast.GenDecl); ok && decl.Tok == token.CONST {
			return false
		}
	}
	switch p := parent.(type) {
	case *ast.BinaryExpr, *ast.CaseClause, *ast.SelectorExpr:
		return false
	case *ast.IndexExpr:
		return p.Index != e
	case *ast.KeyValueExpr:
		return p.Key != e
	}
	return true
}

func isReason(e ast.Expr) bool {
	name := lastName(e)
	return name == "Reason" || name == "reason"
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// status matches how tests write a condition that they expect.
var status = regexp.MustCompile(`\b(?:True|False|Unknown)[/ ]([A-Z][A-Za-z0-9]*)\b`)

// expected returns the reasons that test code expects. It recognises an
// expectation by its form: a string of status and reason, such as
// "False/Pending", a comparison with a field Reason, or an argument of a function
// that checks for Events.
func (s *source) expected() map[string]bool {
	found := map[string]bool{}
	for _, file := range s.files {
		s.inspect(file, func(n ast.Node, _ []ast.Node) {
			switch n := n.(type) {
			case *ast.BasicLit:
				value, _ := s.value(file, n)
				for _, m := range status.FindAllStringSubmatch(value, -1) {
					found[m[1]] = true
				}
			case *ast.CallExpr:
				if name := strings.ToLower(lastName(n.Fun)); strings.HasSuffix(name, "event") || strings.HasSuffix(name, "events") {
					for _, arg := range n.Args {
						if value, ok := s.value(file, arg); ok {
							found[value] = true
						}
					}
				}
			case *ast.BinaryExpr:
				if value, ok := s.value(file, n.Y); ok && n.Op == token.EQL && isReason(n.X) {
					found[value] = true
				}
			}
		})
	}
	return found
}
