// SPDX-License-Identifier: Apache-2.0

package smoltoml

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// located words an error with its place and, on purpose, the whole line it
// is in: whatever secret that line holds is in smolvm's error as well.
func located(text string, at *toml.DecodeError, message string) error {
	line, column := at.Position()
	shown := sourceLine(text, line)
	number := fmt.Sprint(line)
	pad := strings.Repeat(" ", len(number))
	return &parseError{fmt.Sprintf("TOML parse error at line %d, column %d\n%s |\n%s | %s\n%s | %s^\n%s\n",
		line, column, pad, number, shown, pad, strings.Repeat(" ", max(column-1, 0)), message)}
}

// parseError is worded as smolvm words it, last newline and all.
type parseError struct{ text string }

func (e *parseError) Error() string { return e.text }

func sourceLine(text string, line int) string {
	lines := strings.Split(text, "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	return strings.TrimSuffix(lines[line-1], "\r")
}

var (
	wrongType = regexp.MustCompile(`^cannot decode TOML (\w+) into .* of type (\S+)$`)
	tooLarge  = regexp.MustCompile(`^integer value (-?\d+) cannot be stored in uint(\d+)$`)
	twice     = regexp.MustCompile(`^key (\S+) is already defined$`)
	valueAt   = regexp.MustCompile(`^(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^,\]}\s]+)`)
)

// worded says a parse error in smolvm's words where they are known; other
// messages of the parser pass as they are.
func worded(text string, at *toml.DecodeError) string {
	message := strings.TrimPrefix(at.Error(), "toml: ")
	line, column := at.Position()
	value := ""
	if l := sourceLine(text, line); column >= 1 && column <= len(l) {
		value = valueAt.FindString(l[column-1:])
	}
	if m := wrongType.FindStringSubmatch(message); m != nil {
		return "invalid type: " + shownValue(m[1], value) + ", expected " + expected(m[2])
	}
	if m := tooLarge.FindStringSubmatch(message); m != nil {
		return "invalid value: integer `" + m[1] + "`, expected u" + m[2]
	}
	if m := twice.FindStringSubmatch(message); m != nil {
		return "duplicate key `" + m[1] + "` in document root"
	}
	switch {
	case strings.HasPrefix(message, "basic strings cannot"):
		return "invalid basic string"
	case message == "array is incomplete":
		return "invalid array\nexpected `]`"
	case message == "expected ']' to close table name":
		return "invalid table header\nexpected `.`, `]`"
	}
	return message
}

func shownValue(kind, value string) string {
	switch kind {
	case "string":
		return "string " + value
	case "integer":
		return "integer `" + value + "`"
	case "array":
		return "sequence"
	case "table":
		return "map"
	}
	return kind + " `" + value + "`"
}

func expected(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "a sequence"
	case strings.HasPrefix(goType, "uint"):
		return "u" + strings.TrimPrefix(goType, "uint")
	case goType == "string":
		return "a string"
	case goType == "bool":
		return "a boolean"
	}
	return goType
}

// unknownField names the keys that the table would have taken.
func unknownField(text string, at *toml.DecodeError) error {
	key := at.Key()
	if len(key) == 0 {
		return located(text, at, "unknown field")
	}
	table := reflect.TypeFor[File]()
	for _, k := range key[:len(key)-1] {
		if next := field(table, k); next != nil {
			table = next
		}
	}
	message := "unknown field `" + key[len(key)-1] + "`, expected "
	names := keys(table)
	if len(names) == 2 {
		message += names[0] + " or " + names[1]
	} else {
		message += "one of " + strings.Join(names, ", ")
	}
	return located(text, at, message)
}

// field is the struct behind a table's key, nil if it is none.
func field(table reflect.Type, key string) reflect.Type {
	for _, f := range reflect.VisibleFields(table) {
		if f.Tag.Get("toml") != key {
			continue
		}
		t := f.Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() == reflect.Struct {
			return t
		}
	}
	return nil
}

func keys(table reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(table) {
		if !f.Anonymous {
			names = append(names, "`"+f.Tag.Get("toml")+"`")
		}
	}
	return names
}
