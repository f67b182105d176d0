// SPDX-License-Identifier: Apache-2.0

package smoltoml

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// withPosition formats an error with its position and, on purpose, the whole
// source line: smolvm's error also contains any secret in that line.
func withPosition(text string, at *toml.DecodeError, message string) error {
	line, column := at.Position()
	source := sourceLine(text, line)
	number := fmt.Sprint(line)
	pad := strings.Repeat(" ", len(number))
	return &parseError{fmt.Sprintf("TOML parse error at line %d, column %d\n%s |\n%s | %s\n%s | %s^\n%s\n",
		line, column, pad, number, source, pad, strings.Repeat(" ", max(column-1, 0)), message)}
}

// parseError has exactly smolvm's text, including the final newline.
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
	duplicate = regexp.MustCompile(`^key (\S+) is already defined$`)
	valueAt   = regexp.MustCompile(`^(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^,\]}\s]+)`)
)

// reword returns smolvm's text for a parse error if it is known, and otherwise
// the parser's own message.
func reword(text string, at *toml.DecodeError) string {
	message := strings.TrimPrefix(at.Error(), "toml: ")
	line, column := at.Position()
	value := ""
	if l := sourceLine(text, line); column >= 1 && column <= len(l) {
		value = valueAt.FindString(l[column-1:])
	}
	if m := wrongType.FindStringSubmatch(message); m != nil {
		return "invalid type: " + formatValue(m[1], value) + ", expected " + expected(m[2])
	}
	if m := tooLarge.FindStringSubmatch(message); m != nil {
		return "invalid value: integer `" + m[1] + "`, expected u" + m[2]
	}
	if m := duplicate.FindStringSubmatch(message); m != nil {
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

func formatValue(kind, value string) string {
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

// unknownField returns the error for an unknown key, which lists the keys that
// the table accepts.
func unknownField(text string, at *toml.DecodeError) error {
	key := at.Key()
	if len(key) == 0 {
		return withPosition(text, at, "unknown field")
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
	return withPosition(text, at, message)
}

// field returns the struct type of a table's key, or nil if the key is not a
// table.
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
