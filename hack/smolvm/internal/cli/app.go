// SPDX-License-Identifier: Apache-2.0

// Package cli implements the stand-in's commands. What they accept, do, print and
// return matches observations of the emulated release. Commands that are not
// needed to manage machines (run, serve, pack run, branch, checkpoint, …) are
// missing and rejected as unknown.
package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/fault"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/release"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

// app is one invocation of the command line.
type app struct {
	rel    release.Release
	store  *state.Store
	faults *fault.Faults
	home   string // $HOME; its .standin folder holds the tests' settings

	stdin          *os.File
	stdout, stderr io.Writer
	getenv         func(string) string
	errorFormat    string
	exe            string
}

// Main runs one command line and returns its exit code.
func Main(argv []string) int {
	start := time.Now()
	rel, err := release.Current()
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: smolvm stand-in: %v\n", err)
		return 1
	}
	a := &app{
		rel: rel, home: os.Getenv("HOME"), getenv: os.Getenv,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}
	err = a.run(argv)
	code := finish(a.stderr, a.errorFormat, err)
	logCall(a.home, argv, call{Start: start, Code: code})
	return code
}

// globals are the options that every subcommand also accepts.
var globals = []cmdline.Flag{
	{Name: "error-format", Value: "ERROR_FORMAT", Since: "1.29.0", Check: cmdline.OneOf("text", "json")},
	{Name: "state-dir", Value: "PATH", Since: "1.32.2"},
}

const topUsage = "smolvm [OPTIONS] <COMMAND>"

func (a *app) run(argv []string) error {
	before, rest, err := a.leadingGlobals(topUsage, argv)
	if err != nil {
		return err
	}
	switch {
	case len(rest) == 0:
		fmt.Fprintf(a.stderr, "Build and run portable, self-contained virtual machines\n\nUsage: %s\n", topUsage)
		return exitStatus(2)
	case rest[0] == "--version" || rest[0] == "-V":
		fmt.Fprintf(a.stdout, "smolvm %s\n", a.rel)
		return nil
	case rest[0] == "--help" || rest[0] == "-h":
		fmt.Fprintf(a.stdout, "A stand-in for smolvm %s. It has no help texts.\n\nUsage: %s\n", a.rel, topUsage)
		return nil
	case strings.HasPrefix(rest[0], "-"):
		return &cmdline.UsageError{Message: fmt.Sprintf("unexpected argument '%s' found", rest[0]), Usage: topUsage}
	}
	g := findGroup(rest[0])
	if g == nil {
		return &cmdline.UsageError{Message: fmt.Sprintf("unrecognized subcommand '%s'", rest[0]), Usage: topUsage}
	}
	between, rest, err := a.leadingGlobals(g.usage(), rest[1:])
	if err != nil {
		return err
	}
	return a.command(g, append(before, between...), rest)
}

// leadingGlobals splits the global options off the front of argv. It sets the
// error format immediately, because later errors use it.
func (a *app) leadingGlobals(usage string, argv []string) (taken, rest []string, err error) {
	n := 0
	for n < len(argv) && strings.HasPrefix(argv[n], "--") && argv[n] != "--" {
		name, _, attached := strings.Cut(argv[n][2:], "=")
		if !isGlobal(a.rel, name) {
			break
		}
		n++
		if !attached {
			n++
		}
	}
	n = min(n, len(argv))
	c := &cmdline.Command{Usage: usage, Flags: globals}
	args, err := c.Parse(a.rel, argv[:n], a.getenv)
	if err != nil {
		return nil, nil, err
	}
	a.errorFormat = args.Get("error-format")
	return argv[:n], argv[n:], nil
}

func isGlobal(rel release.Release, name string) bool {
	for _, g := range globals {
		if g.Name == name && rel.AtLeast(g.Since) {
			return true
		}
	}
	return false
}

// command finds a command of the group, parses its flags and runs it.
func (a *app) command(g *group, before, argv []string) error {
	if len(argv) == 0 {
		fmt.Fprintf(a.stderr, "%s\n\nUsage: %s\n", g.about, g.usage())
		return exitStatus(2)
	}
	cmd := g.find(a.rel, argv[0])
	if cmd == nil {
		kind := "unrecognized subcommand '%s'"
		if strings.HasPrefix(argv[0], "-") {
			kind = "unexpected argument '%s' found"
		}
		return &cmdline.UsageError{Message: fmt.Sprintf(kind, argv[0]), Usage: g.usage()}
	}
	spec := cmd.spec(g.name, a.rel)
	spec.Flags = append(spec.Flags, globals...)
	args, err := spec.Parse(a.rel, append(append([]string{}, before...), argv[1:]...), a.getenv)
	if err != nil {
		return err
	}
	a.errorFormat = args.Get("error-format")
	if err := a.prepare(args); err != nil {
		return err
	}
	if cmd.writes {
		if err := a.injectLocked(cmd.name, args); err != nil {
			return err
		}
	}
	return cmd.run(a, args)
}

// prepare opens the store and reads the faults.
func (a *app) prepare(args *cmdline.Args) error {
	override := args.Get("state-dir")
	if override == "" && a.rel.AtLeast("1.4.0") {
		override = a.getenv("SMOLVM_DATA_DIR")
	}
	var err error
	if a.store, err = state.Open(override, a.getenv); err != nil {
		return err
	}
	if a.faults, err = fault.Read(a.home); err != nil {
		return fmt.Errorf("smolvm stand-in: %w", err)
	}
	if a.exe, err = os.Executable(); err != nil {
		return err
	}
	if a.faults.StderrNoise {
		fmt.Fprintf(a.stderr, "\x1b[2m%s\x1b[0m \x1b[33m WARN\x1b[0m unable to lock UID registry; retaining assignment\n",
			time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"))
	}
	return nil
}

// injectLocked returns an error if the test injected a locked database. Real
// releases fail like this if they do not wait for their database.
func (a *app) injectLocked(command string, args *cmdline.Args) error {
	locked, err := fault.Take(a.home, func(f *fault.Faults) *int { return &f.DatabaseLocked })
	if err != nil {
		return fmt.Errorf("smolvm stand-in: %w", err)
	}
	if !locked {
		return nil
	}
	name := args.Get("name")
	if len(args.Positional) > 0 {
		name = args.Positional[0]
	}
	verb := map[string]string{"create": "reserve vm", "delete": "remove vm"}[command]
	if verb == "" {
		verb = "update vm"
	}
	return fmt.Errorf("database operation failed: %s '%s': database is locked", verb, name)
}
