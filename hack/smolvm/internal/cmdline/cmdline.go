// SPDX-License-Identifier: Apache-2.0

// Package cmdline parses argument lists the way smolvm's parser (clap) does,
// as far as a caller can tell: what is accepted, the first line of a refusal
// and its exit code 2. It prints no help texts.
package cmdline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
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

type parser struct {
	cmd   *Command
	rel   release.Release
	env   func(string) string
	args  *Args
	rest  []string
	token string
}

// Parse reads argv (without the words of the command itself).
func (c *Command) Parse(rel release.Release, argv []string, getenv func(string) string) (*Args, error) {
	p := &parser{cmd: c, rel: rel, env: getenv, rest: argv, args: &Args{values: map[string][]string{}}}
	for len(p.rest) > 0 {
		p.token, p.rest = p.rest[0], p.rest[1:]
		if p.token == "--" && c.Trailing != NoTrailing {
			p.args.Trailing, p.rest = p.rest, nil
			break
		}
		if c.Trailing == FromFirstWord && (p.token == "-" || !strings.HasPrefix(p.token, "-")) {
			p.args.Trailing, p.rest = append([]string{p.token}, p.rest...), nil
			break
		}
		if err := p.word(); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.args, nil
}

func (p *parser) word() error {
	switch {
	case p.token == "--":
		for _, w := range p.rest {
			if err := p.positional(w); err != nil {
				return err
			}
		}
		p.rest = nil
		return nil
	case strings.HasPrefix(p.token, "--"):
		name, value, attached := strings.Cut(p.token[2:], "=")
		f := p.find(func(f Flag) bool { return f.Name == name })
		if f == nil {
			return p.unexpected("--" + name)
		}
		return p.take(f, "--"+name, value, attached)
	case len(p.token) > 1 && p.token[0] == '-':
		return p.shorts(p.token[1:])
	}
	return p.positional(p.token)
}

func (p *parser) shorts(cluster string) error {
	for cluster != "" {
		letter := cluster[:1]
		cluster = cluster[1:]
		f := p.find(func(f Flag) bool { return f.Short == letter })
		if f == nil {
			return p.unexpected("-" + letter)
		}
		if f.Value == "" {
			if err := p.take(f, "-"+letter, "", false); err != nil {
				return err
			}
			continue
		}
		attached := cluster != ""
		return p.take(f, "-"+letter, strings.TrimPrefix(cluster, "="), attached)
	}
	return nil
}

func (p *parser) positional(w string) error {
	if len(p.args.Positional) >= len(p.cmd.Positional) {
		return p.unexpected(w)
	}
	p.args.Positional = append(p.args.Positional, w)
	return nil
}

// take stores one occurrence; attached tells "--a=" from "--a".
func (p *parser) take(f *Flag, shown, value string, attached bool) error {
	p.args.order = append(p.args.order, f.Name)
	if f.Value == "" {
		if attached {
			return p.usage("unexpected value '%s' for '%s' found; no more were expected", value, shown)
		}
		if len(p.args.values[f.Name]) > 0 {
			return p.usage("the argument '%s' cannot be used multiple times", p.label(f))
		}
		p.args.values[f.Name] = []string{"true"}
		return nil
	}
	if !attached {
		if len(p.rest) == 0 {
			return p.bare("a value is required for '%s' but none was supplied", p.label(f))
		}
		if next := p.rest[0]; len(next) > 1 && next[0] == '-' {
			if next == "--" {
				return p.bare("a value is required for '%s' but none was supplied", p.label(f))
			}
			return p.startsWithDash(f, next)
		}
		value, p.rest = p.rest[0], p.rest[1:]
	}
	if len(p.args.values[f.Name]) > 0 && !f.Many {
		return p.usage("the argument '%s' cannot be used multiple times", p.label(f))
	}
	if f.Check != nil {
		err := f.Check(value)
		if choice := (*choiceError)(nil); errors.As(err, &choice) {
			return p.bare("invalid value '%s' for '%s'\n  %s", value, p.label(f), err)
		}
		if err != nil {
			return p.bare("invalid value '%s' for '%s': %s", value, p.label(f), err)
		}
	}
	p.args.values[f.Name] = append(p.args.values[f.Name], value)
	return nil
}

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

// startsWithDash is what clap says of "--name -a": an unknown flag is
// reported as such, a known one means that the value is missing.
func (p *parser) startsWithDash(f *Flag, next string) error {
	known := p.find(func(o Flag) bool {
		if strings.HasPrefix(next, "--") {
			name, _, _ := strings.Cut(next[2:], "=")
			return o.Name == name
		}
		return o.Short == next[1:2]
	})
	if known != nil {
		return p.bare("a value is required for '%s' but none was supplied", p.label(f))
	}
	if !strings.HasPrefix(next, "--") {
		next = next[:2]
	}
	return p.unexpected(next)
}

func (p *parser) finish() error {
	for i := range p.cmd.Flags {
		f := &p.cmd.Flags[i]
		if !p.present(f) || p.args.Has(f.Name) {
			continue
		}
		if f.Env != "" && p.env(f.Env) != "" {
			p.args.values[f.Name] = []string{p.env(f.Env)}
			continue
		}
		if f.Required {
			return p.usage("the following required arguments were not provided:\n  %s", p.label(f))
		}
	}
	if err := p.exclusions(); err != nil {
		return err
	}
	if missing := len(p.cmd.Positional) - p.cmd.Optional - len(p.args.Positional); missing > 0 {
		return p.usage("the following required arguments were not provided:\n  <%s>", strings.Join(p.cmd.Positional[len(p.args.Positional):], ">\n  <"))
	}
	if p.cmd.Trailing == FromFirstWord && len(p.args.Trailing) == 0 {
		return p.usage("the following required arguments were not provided:\n  <COMMAND>...")
	}
	return nil
}

// exclusions refuses flags that cannot stand together; the one given first is
// named first.
func (p *parser) exclusions() error {
	for i := range p.cmd.Flags {
		f := &p.cmd.Flags[i]
		for _, other := range f.Excludes {
			o := p.find(func(o Flag) bool { return o.Name == other })
			if o == nil || !p.args.Has(f.Name) || !p.args.Has(other) {
				continue
			}
			if slices.Index(p.args.order, other) < slices.Index(p.args.order, f.Name) {
				f, o = o, f
			}
			return p.usage("the argument '%s' cannot be used with '%s'", p.label(f), p.label(o))
		}
	}
	return nil
}

func (p *parser) find(match func(Flag) bool) *Flag {
	for i := range p.cmd.Flags {
		if f := &p.cmd.Flags[i]; p.present(f) && match(*f) {
			return f
		}
	}
	return nil
}

func (p *parser) present(f *Flag) bool {
	return p.rel.AtLeast(f.Since) && (f.Until == "" || !p.rel.AtLeast(f.Until))
}

func (p *parser) label(f *Flag) string {
	if f.Value == "" {
		return "--" + f.Name
	}
	return "--" + f.Name + " <" + f.Value + ">"
}

func (p *parser) unexpected(what string) error {
	return p.usage("unexpected argument '%s' found", what)
}

func (p *parser) usage(format string, a ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, a...), Usage: p.cmd.Usage}
}

func (p *parser) bare(format string, a ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, a...)}
}
