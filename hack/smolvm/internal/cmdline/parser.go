// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
)

type parser struct {
	cmd   *Command
	rel   release.Release
	env   func(string) string
	args  *Args
	rest  []string
	token string
}

// Parse parses argv, which does not include the command's own name.
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
		if err := p.parseWord(); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.args, nil
}

func (p *parser) parseWord() error {
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
		return p.store(f, occurrence{"--" + name, value, attached})
	case len(p.token) > 1 && p.token[0] == '-':
		return p.parseShorts(p.token[1:])
	}
	return p.positional(p.token)
}

func (p *parser) parseShorts(cluster string) error {
	for cluster != "" {
		letter := cluster[:1]
		cluster = cluster[1:]
		f := p.find(func(f Flag) bool { return f.Short == letter })
		if f == nil {
			return p.unexpected("-" + letter)
		}
		if f.Value == "" {
			if err := p.store(f, occurrence{spelling: "-" + letter}); err != nil {
				return err
			}
			continue
		}
		return p.store(f, occurrence{"-" + letter, strings.TrimPrefix(cluster, "="), cluster != ""})
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

// occurrence is a flag as written on the command line.
type occurrence struct {
	spelling string // "--name" or "-n"
	value    string
	attached bool // the value is part of the same word: "--name=x", "-nx"
}

// store checks and stores one occurrence of a flag.
func (p *parser) store(f *Flag, o occurrence) error {
	p.args.order = append(p.args.order, f.Name)
	again := len(p.args.values[f.Name]) > 0 && !f.Repeatable
	if f.Value == "" {
		if o.attached {
			return p.usageErrorf("unexpected value '%s' for '%s' found; no more were expected", o.value, o.spelling)
		}
		o.value = "true"
	} else if !o.attached {
		if err := p.nextWord(f, &o); err != nil {
			return err
		}
	}
	if again {
		return p.usageErrorf("the argument '%s' cannot be used multiple times", p.label(f))
	}
	if f.Check != nil {
		err := f.Check(o.value)
		if choice := (*choiceError)(nil); errors.As(err, &choice) {
			return p.errorf("invalid value '%s' for '%s'\n  %s", o.value, p.label(f), err)
		}
		if err != nil {
			return p.errorf("invalid value '%s' for '%s': %s", o.value, p.label(f), err)
		}
	}
	p.args.values[f.Name] = append(p.args.values[f.Name], o.value)
	return nil
}

// nextWord takes the flag's value from the next word.
func (p *parser) nextWord(f *Flag, o *occurrence) error {
	if len(p.rest) == 0 || p.rest[0] == "--" {
		return p.errorf("a value is required for '%s' but none was supplied", p.label(f))
	}
	if next := p.rest[0]; len(next) > 1 && next[0] == '-' {
		return p.dashValueError(f, next)
	}
	o.value, p.rest = p.rest[0], p.rest[1:]
	return nil
}

// dashValueError returns clap's error for "--name -a". If -a is unknown, the
// error says so; if it is a known flag, the error says that the value is missing.
func (p *parser) dashValueError(f *Flag, next string) error {
	known := p.find(func(o Flag) bool {
		if strings.HasPrefix(next, "--") {
			name, _, _ := strings.Cut(next[2:], "=")
			return o.Name == name
		}
		return o.Short == next[1:2]
	})
	if known != nil {
		return p.errorf("a value is required for '%s' but none was supplied", p.label(f))
	}
	if !strings.HasPrefix(next, "--") {
		next = next[:2]
	}
	return p.unexpected(next)
}

func (p *parser) finish() error {
	for i := range p.cmd.Flags {
		f := &p.cmd.Flags[i]
		if !p.available(f) || p.args.Has(f.Name) {
			continue
		}
		if f.Env != "" && p.env(f.Env) != "" {
			p.args.values[f.Name] = []string{p.env(f.Env)}
			continue
		}
		if f.Required {
			return p.usageErrorf("the following required arguments were not provided:\n  %s", p.label(f))
		}
	}
	if err := p.checkExclusions(); err != nil {
		return err
	}
	if missing := len(p.cmd.Positional) - p.cmd.Optional - len(p.args.Positional); missing > 0 {
		return p.usageErrorf("the following required arguments were not provided:\n  <%s>", strings.Join(p.cmd.Positional[len(p.args.Positional):], ">\n  <"))
	}
	if p.cmd.Trailing == FromFirstWord && len(p.args.Trailing) == 0 {
		return p.usageErrorf("the following required arguments were not provided:\n  <COMMAND>...")
	}
	return nil
}

// checkExclusions rejects flags that cannot be combined. The error names first the
// flag that was given first.
func (p *parser) checkExclusions() error {
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
			return p.usageErrorf("the argument '%s' cannot be used with '%s'", p.label(f), p.label(o))
		}
	}
	return nil
}

func (p *parser) find(match func(Flag) bool) *Flag {
	for i := range p.cmd.Flags {
		if f := &p.cmd.Flags[i]; p.available(f) && match(*f) {
			return f
		}
	}
	return nil
}

func (p *parser) available(f *Flag) bool {
	return p.rel.AtLeast(f.Since) && (f.Until == "" || !p.rel.AtLeast(f.Until))
}

func (p *parser) label(f *Flag) string {
	if f.Value == "" {
		return "--" + f.Name
	}
	return "--" + f.Name + " <" + f.Value + ">"
}

func (p *parser) unexpected(what string) error {
	return p.usageErrorf("unexpected argument '%s' found", what)
}

func (p *parser) usageErrorf(format string, a ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, a...), Usage: p.cmd.Usage}
}

// errorf is like usageErrorf, but without the usage line, as clap omits it for
// some errors.
func (p *parser) errorf(format string, a ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, a...)}
}
