// SPDX-License-Identifier: Apache-2.0

// Package cmdline parses argument lists the way smolvm's parser (clap) does,
// as far as a caller can tell: what is accepted, the first line of a refusal
// and its exit code 2. It prints no help texts.
package cmdline

import (
	"slices"
	"strings"
)

// Flag is one option. A flag without Value is a switch.
type Flag struct {
	Name  string // without dashes
	Short string // one letter or empty
	Value string // the value's name in messages, as in "<CIDR>"; empty for a switch
	Many  bool   // may be repeated
	Since string // first release that has it; empty = always
	Until string // first release that no longer has it; empty = none
	Env   string // variable that supplies a default
	// Check refuses a value with clap's own exit code; nil accepts all.
	Check func(string) error
	// Excludes names flags that cannot stand beside this one.
	Excludes []string
	Required bool
}

// Trailing says what a command does with words of another program.
type Trailing int

// How words of another program may follow.
const (
	NoTrailing    Trailing = iota // "--" only ends the flags
	AfterDashes                   // "-- COMMAND..." may follow
	FromFirstWord                 // COMMAND... must follow, "--" or not
)

// Command is one subcommand.
type Command struct {
	Usage      string // "smolvm machine create"
	Flags      []Flag
	Positional []string // names of accepted positionals
	Optional   int      // how many of the last positionals may be missing
	Trailing   Trailing
}

// Args is what a command was called with.
type Args struct {
	values     map[string][]string
	order      []string // names as they came
	Positional []string
	Trailing   []string
}

// UsageError is a refusal by the parser: exit code 2.
type UsageError struct {
	Message string // without "error: "
	Usage   string
}

func (e *UsageError) Error() string {
	s := "error: " + e.Message + "\n"
	if e.Usage != "" {
		s += "\nUsage: " + e.Usage + "\n"
	}
	return s + "\nFor more information, try '--help'."
}

// Has reports whether the flag was given.
func (a *Args) Has(name string) bool { return len(a.values[name]) > 0 }

// Get is the flag's last value, "" without one.
func (a *Args) Get(name string) string {
	if v := a.values[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// All is every value in order.
func (a *Args) All(name string) []string { return a.values[name] }

// OneOf is a Check that takes these words only.
func OneOf(words ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		return &choiceError{words}
	}
}

type choiceError struct{ words []string }

func (e *choiceError) Error() string {
	return "[possible values: " + strings.Join(e.words, ", ") + "]"
}
