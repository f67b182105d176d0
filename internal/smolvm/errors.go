// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

// errLocked is why a call is worth repeating at once.
var errLocked = errors.New("database is locked")

// errOther is a known text that is of no kind of the port.
var errOther = errors.New("other")

// errSlow is a call that ran out of its time.
var errSlow = errors.New("no answer in time")

func isLocked(err error) bool { return errors.Is(err, errLocked) }

// explain turns a run that failed into an error of the port. The runner's own
// error holds stderr whole and is never wrapped.
func explain(c call, res runner.Result, err error) error {
	var run *runner.Error
	if !errors.As(err, &run) {
		return fmt.Errorf("%s: %w", c.what, err)
	}
	switch {
	case errors.Is(run.Err, runner.ErrNetNS):
		return fmt.Errorf("%s: %w: %w", c.what, host.ErrUnavailable, run.Err)
	case !run.Started:
		return fmt.Errorf("%s: %w: smolvm cannot be run: %w", c.what, host.ErrUnavailable, run.Err)
	case run.TimedOut:
		return fmt.Errorf("%s: %w: %w (%s)", c.what, host.ErrUnavailable, errSlow, c.timeout)
	case run.Err != nil:
		return fmt.Errorf("%s: smolvm: %w", c.what, run.Err)
	case run.ExitCode == 2:
		return fmt.Errorf("%s: %w", c.what, usage(firstLine(res.Stderr)))
	}
	text, ok := said(res.Stderr)
	if !ok {
		return fmt.Errorf("%s: smolvm ended with exit code %d", c.what, run.ExitCode)
	}
	return c.fail(text)
}

// fail is smolvm's own word that a call failed.
func (c call) fail(text string) error {
	kind, say := meaning(text)
	if c.boots && (kind == nil || errors.Is(kind, host.ErrInvalid)) {
		// What it was created with was accepted then; what it reads at each
		// start may come.
		kind = host.ErrBootFailed
	}
	if kind == nil || errors.Is(kind, errOther) {
		return fmt.Errorf("%s: %s", c.what, say)
	}
	return fmt.Errorf("%s: %w: %s", c.what, kind, say)
}

// usage is an argument error: of the release when it does not know the
// argument, else of what was asked for.
func usage(line string) error {
	for _, unknown := range []string{"unexpected argument", "unrecognized subcommand", "wasn't recognized"} {
		if strings.Contains(line, unknown) {
			return fmt.Errorf("%w: %s", host.ErrUnsupported, clean(line))
		}
	}
	return fmt.Errorf("%w: %s", host.ErrInvalid, clean(line))
}

// said finds smolvm's own words in what may be mixed with log lines: the JSON
// form on one line, or all that follows "Error: " at the start of a line.
func said(stderr []byte) (string, bool) {
	lines := bytes.Split(stderr, []byte("\n"))
	for i := len(lines) - 1; i >= 0; i-- {
		var e struct {
			Error *struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		line := bytes.TrimSpace(lines[i])
		if bytes.HasPrefix(line, []byte(`{"error":`)) && json.Unmarshal(line, &e) == nil && e.Error != nil {
			return e.Error.Message, true
		}
	}
	for i, line := range lines {
		if rest, ok := bytes.CutPrefix(line, []byte("Error: ")); ok {
			lines[i] = rest
			return string(bytes.Join(lines[i:], []byte("\n"))), true
		}
	}
	return "", false
}

// own says whether a text is in the form in which smolvm prints its errors,
// and not a guest's program that says "Error: " too.
func own(text string) bool {
	for _, prefix := range []string{
		"vm not found: ", "invalid vm state: ", "config operation failed: ", "agent operation failed: ",
		"database operation failed: ", "database not available: ", "storage operation failed: ",
		"kvm not available: ", "kvm permission denied: ", "io operation failed: ",
	} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

var machineNotFound = regexp.MustCompile(`machine '[^']*' not found`)

// meanings are tried in order.
var meanings = []struct {
	has  string
	kind error
	say  string // instead of the text
}{
	{"database is locked", fmt.Errorf("%w: %w", host.ErrUnavailable, errLocked), ""},
	{"vm not found: ", host.ErrNotFound, ""},
	{"already exists", host.ErrConflict, ""},
	{"TOML parse error", host.ErrInvalid, "smolvm cannot read the Smolfile"},
	{"failed to parse", host.ErrInvalid, "smolvm cannot read the Smolfile"},
	{"is not running", host.ErrNotRunning, ""},
	{"kvm permission denied", host.ErrBootFailed, "smolvm may not use the KVM device"},
	{"KvmOpen", host.ErrBootFailed, "the machine's VMM may not open the KVM device: it must be open to every user"},
	{"kvm not available", host.ErrBootFailed, "the node has no KVM"},
	{"another process is already starting", errOther, "it is being started by another process"},
	{"still alive after stop attempts", errOther, ""},
	{"start machine: ", host.ErrBootFailed, ""},
	{"wait for ready", host.ErrBootFailed, ""},
	{"before the agent was ready", host.ErrBootFailed, ""},
	{"start background CMD", host.ErrBootFailed, ""},
	{"agent operation failed: init: ", host.ErrBootFailed, ""},
	{"database operation failed", host.ErrUnavailable, ""},
	{"database not available", host.ErrUnavailable, ""},
	{"config operation failed", host.ErrInvalid, ""},
	{"read .smolmachine: ", host.ErrInvalid, ""},
	{"read checkpoint footer: ", host.ErrInvalid, ""},
	{"read sidecar footer: ", host.ErrInvalid, ""},
	{"verify checkpoint checksum: ", host.ErrInvalid, ""},
	{"platform mismatch: ", host.ErrInvalid, ""},
	{"mount source not found", host.ErrInvalid, ""},
	{"mount operation failed", host.ErrInvalid, ""},
	{"invalid mount path", host.ErrInvalid, ""},
}

var (
	tomlPlace    = regexp.MustCompile(`line (\d+), column (\d+)`)
	unknownField = regexp.MustCompile("unknown field `([A-Za-z0-9_-]{1,40})`")
)

// meaning gives smolvm's words a kind, nil when they are not known, and a text
// without anything of a Smolfile's content.
func meaning(text string) (kind error, say string) {
	first := clean(firstLine([]byte(text)))
	if machineNotFound.MatchString(text) {
		return host.ErrNotFound, first
	}
	for _, m := range meanings {
		if !strings.Contains(text, m.has) {
			continue
		}
		if m.say == "" {
			return m.kind, first
		}
		say = m.say
		if at := tomlPlace.FindString(text); at != "" {
			say += " (" + at + ")"
		}
		if f := unknownField.FindStringSubmatch(text); f != nil {
			say += ": unknown field " + f[1]
		}
		return m.kind, say
	}
	return nil, first
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line)
}

// maxText bounds what of smolvm's words goes into an error.
const maxText = 300

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// clean makes a text fit for a condition: no colours, no control characters,
// of a bounded length. Parts of it may come from a guest.
func clean(s string) string {
	s = escapes.ReplaceAllString(s, "")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxText {
		s = string(r[:maxText]) + "…"
	}
	return s
}
