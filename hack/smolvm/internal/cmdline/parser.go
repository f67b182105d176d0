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
		return p.take(f, given{"--" + name, value, attached})
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
			if err := p.take(f, given{shown: "-" + letter}); err != nil {
				return err
			}
			continue
		}
		return p.take(f, given{"-" + letter, strings.TrimPrefix(cluster, "="), cluster != ""})
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

// given is a flag as it stands on the command line.
type given struct {
	shown    string // "--name" or "-n"
	value    string
	attached bool // the value came with it: "--name=x", "-nx"
}

// take stores one occurrence.
func (p *parser) take(f *Flag, g given) error {
	p.args.order = append(p.args.order, f.Name)
	again := len(p.args.values[f.Name]) > 0 && !f.Many
	if f.Value == "" {
		if g.attached {
			return p.usage("unexpected value '%s' for '%s' found; no more were expected", g.value, g.shown)
		}
		g.value = "true"
	} else if !g.attached {
		if err := p.nextWord(f, &g); err != nil {
			return err
		}
	}
	if again {
		return p.usage("the argument '%s' cannot be used multiple times", p.label(f))
	}
	if f.Check != nil {
		err := f.Check(g.value)
		if choice := (*choiceError)(nil); errors.As(err, &choice) {
			return p.bare("invalid value '%s' for '%s'\n  %s", g.value, p.label(f), err)
		}
		if err != nil {
			return p.bare("invalid value '%s' for '%s': %s", g.value, p.label(f), err)
		}
	}
	p.args.values[f.Name] = append(p.args.values[f.Name], g.value)
	return nil
}

// nextWord takes the flag's value from the word after it.
func (p *parser) nextWord(f *Flag, g *given) error {
	if len(p.rest) == 0 || p.rest[0] == "--" {
		return p.bare("a value is required for '%s' but none was supplied", p.label(f))
	}
	if next := p.rest[0]; len(next) > 1 && next[0] == '-' {
		return p.startsWithDash(f, next)
	}
	g.value, p.rest = p.rest[0], p.rest[1:]
	return nil
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
