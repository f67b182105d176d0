// SPDX-License-Identifier: Apache-2.0

// Package cmdline parses argument lists like smolvm's parser (clap), as far as a
// caller can observe: which arguments it accepts, the first line of an error, and
// exit code 2. It prints no help texts.
package cmdline

import (
	"slices"
	"strings"
)

// Flag is an option of a command. A flag without Value is a switch.
type Flag struct {
	Name       string // without dashes
	Short      string // one letter or empty
	Value      string // the value's name in messages, as in "<CIDR>"; empty for a switch
	Repeatable bool   // may be repeated
	Since      string // first release that has it; empty = all have it
	Until      string // first release without it; empty = it was never removed
	Env        string // environment variable that supplies a default
	// Check validates a value; an error is a UsageError. nil accepts all values.
	Check func(string) error
	// Excludes names flags that cannot be combined with this one.
	Excludes []string
	Required bool
}

// Trailing says whether a command accepts the command line of another program
// after its own flags.
type Trailing int

// The possible values of Trailing.
const (
	NoTrailing    Trailing = iota // "--" ends the flags; the rest are positionals
	AfterDashes                   // the command may end in "-- COMMAND..."
	FromFirstWord                 // the command must end in COMMAND..., with or without "--"
)

// Command is one subcommand.
type Command struct {
	Usage      string // "smolvm machine create"
	Flags      []Flag
	Positional []string // names of accepted positionals
	Optional   int      // how many positionals may be missing at the end
	Trailing   Trailing
}

// Args are the parsed arguments of a command.
type Args struct {
	values     map[string][]string
	order      []string // flag names in the given order
	Positional []string
	Trailing   []string
}

// UsageError reports a command line that cannot be parsed. The exit code is 2.
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

// Get returns the flag's last value, or "" if it was not given.
func (a *Args) Get(name string) string {
	if v := a.values[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// All returns all values of the flag in order.
func (a *Args) All(name string) []string { return a.values[name] }

// OneOf returns a Check that accepts only these words.
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
