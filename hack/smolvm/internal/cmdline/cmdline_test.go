// SPDX-License-Identifier: Apache-2.0

package cmdline

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
)

var newest = release.MustParse(release.Reference)

func testCommand(trailing Trailing) *Command {
	return &Command{
		Usage: "tool do [OPTIONS]", Trailing: trailing,
		Flags: []Flag{
			{Name: "name", Short: "n", Value: "NAME", Env: "TOOL_NAME"},
			{Name: "env", Short: "e", Value: "KEY=VALUE", Repeatable: true},
			{Name: "json"},
			{Name: "quiet", Short: "q"},
			{Name: "kind", Value: "KIND", Check: OneOf("a", "b"), Excludes: []string{"json"}},
			{Name: "late", Since: "1.9.0"},
			{Name: "early", Until: "1.9.0"},
		},
	}
}

func noEnv(string) string { return "" }

func TestParseAccepts(t *testing.T) {
	for line, want := range map[string]map[string][]string{
		"":                           {},
		"--name x":                   {"name": {"x"}},
		"--name=x --json":            {"name": {"x"}, "json": {"true"}},
		"-n x -e A=1 -e B=2":         {"name": {"x"}, "env": {"A=1", "B=2"}},
		"-nx -qeA=1":                 {"name": {"x"}, "quiet": {"true"}, "env": {"A=1"}},
		"--name=-x":                  {"name": {"-x"}},
		"--name= --env =v":           {"name": {""}, "env": {"=v"}},
		"--kind b --late":            {"kind": {"b"}, "late": {"true"}},
		"--name - --env - --env=-":   {"name": {"-"}, "env": {"-", "-"}},
		"--env A=--name --env=B=-- ": {"env": {"A=--name", "B=--"}},
	} {
		a, err := testCommand(NoTrailing).Parse(newest, strings.Fields(line), noEnv)
		if err != nil {
			t.Errorf("%q: got %v, want no error", line, err)
			continue
		}
		if diff := cmp.Diff(want, a.values); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", line, diff)
		}
	}
}

func TestParseRejects(t *testing.T) {
	for line, want := range map[string]string{
		"x":               "unexpected argument 'x' found",
		"--bogus":         "unexpected argument '--bogus' found",
		"--bogus=1":       "unexpected argument '--bogus' found",
		"-x":              "unexpected argument '-x' found",
		"--name":          "a value is required for '--name <NAME>' but none was supplied",
		"--name --json":   "a value is required for '--name <NAME>' but none was supplied",
		"--name -a":       "unexpected argument '-a' found",
		"--name a -n b":   "the argument '--name <NAME>' cannot be used multiple times",
		"--json --json":   "the argument '--json' cannot be used multiple times",
		"--json=1":        "unexpected value '1' for '--json' found; no more were expected",
		"--kind c":        "invalid value 'c' for '--kind <KIND>'\n  [possible values: a, b]",
		"--kind a --json": "the argument '--kind <KIND>' cannot be used with '--json'",
		"--early":         "unexpected argument '--early' found",
		"-- x":            "unexpected argument 'x' found",
	} {
		_, err := testCommand(NoTrailing).Parse(newest, strings.Fields(line), noEnv)
		var usage *UsageError
		if !errors.As(err, &usage) || usage.Message != want {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
}

func TestParseByRelease(t *testing.T) {
	old := release.MustParse("1.8.3")
	if _, err := testCommand(NoTrailing).Parse(old, []string{"--early"}, noEnv); err != nil {
		t.Errorf("--early in %s: got %v, want no error", old, err)
	}
	if _, err := testCommand(NoTrailing).Parse(old, []string{"--late"}, noEnv); err == nil {
		t.Errorf("--late in %s: got no error, want a usage error", old)
	}
}

func TestParseTrailing(t *testing.T) {
	for _, c := range []struct {
		trailing Trailing
		line     string
		want     []string
	}{
		{AfterDashes, "--json -- sh -c --bogus", []string{"sh", "-c", "--bogus"}},
		{AfterDashes, "--json", nil},
		{FromFirstWord, "--json ls --json -- x", []string{"ls", "--json", "--", "x"}},
		{FromFirstWord, "--json -- ls -la", []string{"ls", "-la"}},
	} {
		a, err := testCommand(c.trailing).Parse(newest, strings.Fields(c.line), noEnv)
		if err != nil {
			t.Errorf("%q: got %v, want no error", c.line, err)
			continue
		}
		if diff := cmp.Diff(c.want, a.Trailing); diff != "" {
			t.Errorf("%q: (-want +got)\n%s", c.line, diff)
		}
	}
	for _, line := range []string{"", "--json", "--json --"} {
		if _, err := testCommand(FromFirstWord).Parse(newest, strings.Fields(line), noEnv); err == nil {
			t.Errorf("%q: got no error, want a usage error about the missing command", line)
		}
	}
}

func TestParsePositionals(t *testing.T) {
	c := &Command{Positional: []string{"SRC", "DST"}}
	a, err := c.Parse(newest, []string{"a", "b"}, noEnv)
	if err != nil || !cmp.Equal(a.Positional, []string{"a", "b"}) {
		t.Errorf("got %v, %v, want a and b", a, err)
	}
	for _, argv := range [][]string{{}, {"a"}, {"a", "b", "c"}} {
		if _, err := c.Parse(newest, argv, noEnv); err == nil {
			t.Errorf("%v: got no error, want a usage error", argv)
		}
	}
}

func TestDefaultFromEnvironment(t *testing.T) {
	env := func(k string) string { return map[string]string{"TOOL_NAME": "fromenv"}[k] }
	for line, want := range map[string]string{"": "fromenv", "--name x": "x"} {
		a, err := testCommand(NoTrailing).Parse(newest, strings.Fields(line), env)
		if err != nil || a.Get("name") != want {
			t.Errorf("%q: got %v, %v, want %s", line, a, err, want)
		}
	}
}
