// SPDX-License-Identifier: Apache-2.0

package smolfile

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// located words an error with its place and, on purpose, the whole line it
// is in: whatever secret that line holds is in smolvm's error as well.
func located(text string, at *toml.DecodeError, message string) error {
	line, column := at.Position()
	lines := strings.Split(text, "\n")
	shown := ""
	if line >= 1 && line <= len(lines) {
		shown = strings.TrimSuffix(lines[line-1], "\r")
	}
	number := fmt.Sprint(line)
	pad := strings.Repeat(" ", len(number))
	return fmt.Errorf("TOML parse error at line %d, column %d\n%s |\n%s | %s\n%s | %s^\n%s\n",
		line, column, pad, number, shown, pad, strings.Repeat(" ", max(column-1, 0)), message)
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
	for i := range table.NumField() {
		f := table.Field(i)
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
	for i := range table.NumField() {
		names = append(names, "`"+table.Field(i).Tag.Get("toml")+"`")
	}
	return names
}
