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

// errLocked means that the call is worth retrying soon.
var errLocked = errors.New("database is locked")

// errOther is the kind of a known message that fits no error of package host.
var errOther = errors.New("other")

// errTimedOut means that a call exceeded its timeout.
var errTimedOut = errors.New("no answer in time")

func isLocked(err error) bool { return errors.Is(err, errLocked) }

// explain converts the error of a failed run into one of package host's errors.
// It never wraps the runner's own error, whose text includes stderr.
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
		return fmt.Errorf("%s: %w: %w (%s)", c.what, host.ErrUnavailable, errTimedOut, c.timeout)
	case run.Err != nil:
		return fmt.Errorf("%s: smolvm: %w", c.what, run.Err)
	case run.ExitCode == 2:
		return fmt.Errorf("%s: %w", c.what, usageError(firstLine(res.Stderr)))
	}
	text, ok := errorMessage(res.Stderr)
	if !ok {
		return fmt.Errorf("%s: smolvm ended with exit code %d", c.what, run.ExitCode)
	}
	return c.failure(text)
}

// failure returns the error for a message of smolvm that says that c failed.
func (c call) failure(text string) error {
	kind, message := classify(text)
	if c.boots && (kind == nil || errors.Is(kind, host.ErrInvalid)) {
		// smolvm accepted the machine's spec at create. What it reads at each
		// start may still appear, so this is not permanent.
		kind = host.ErrBootFailed
	}
	if kind == nil || errors.Is(kind, errOther) {
		return fmt.Errorf("%s: %s", c.what, message)
	}
	return fmt.Errorf("%s: %w: %s", c.what, kind, message)
}

// usageError returns the error for a rejected command line: ErrUnsupported if
// the release does not know an argument, otherwise ErrInvalid.
func usageError(line string) error {
	for _, unknown := range []string{"unexpected argument", "unrecognized subcommand", "wasn't recognized"} {
		if strings.Contains(line, unknown) {
			return fmt.Errorf("%w: %s", host.ErrUnsupported, clean(line))
		}
	}
	return fmt.Errorf("%w: %s", host.ErrInvalid, clean(line))
}

// errorMessage finds smolvm's error message in stderr, which may also hold log
// lines. The message is either a JSON object on one line, or everything after
// "Error: " at the start of a line.
func errorMessage(stderr []byte) (string, bool) {
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

// isSmolvmError reports whether a message has the form of smolvm's errors. A
// program in the guest may print "Error: " too.
func isSmolvmError(text string) bool {
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

// knownErrors are tried in order.
var knownErrors = []struct {
	part    string // what the text contains
	kind    error
	message string // replaces the text unless it is empty
}{
	{"database is locked", fmt.Errorf("%w: %w", host.ErrUnavailable, errLocked), ""},
	{"vm not found: ", host.ErrNotFound, ""},
	{"already exists", host.ErrConflict, ""},
	{"TOML parse error", host.ErrInvalid, "smolvm cannot read the Smolfile"},
	{"failed to parse", host.ErrInvalid, "smolvm cannot read the Smolfile"},
	{"is not running", host.ErrNotRunning, ""},
	{"kvm permission denied", host.ErrBootFailed, "smolvm may not use the KVM device"},
	{"KvmOpen", host.ErrBootFailed, "the machine's VMM may not open the KVM device: every user must have access to it"},
	{"kvm not available", host.ErrBootFailed, "the node has no KVM"},
	{"another process is already starting", errOther, "another process is starting it"},
	{"still alive after stop attempts", errOther, ""},
	{"start machine: ", host.ErrBootFailed, ""},
	{"wait for ready", host.ErrBootFailed, ""},
	{"before the agent was ready", host.ErrBootFailed, ""},
	{"start background CMD", host.ErrBootFailed, ""},
	{"agent operation failed: init: ", host.ErrBootFailed, ""},
	{"database operation failed", host.ErrUnavailable, ""},
	{"database not available", host.ErrUnavailable, ""},
	{"tar archive exceeds max total size", errUnpacksTooLarge, "too many bytes"},
	{"tar archive exceeds max entry count", errUnpacksTooLarge, "too many files"},
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
	tomlPosition = regexp.MustCompile(`line (\d+), column (\d+)`)
	unknownField = regexp.MustCompile("unknown field `([A-Za-z0-9_-]{1,40})`")
)

// classify returns the kind of a message of smolvm, nil if the message is not
// known, and a text without any content of a Smolfile.
func classify(text string) (kind error, message string) {
	first := clean(firstLine([]byte(text)))
	if machineNotFound.MatchString(text) {
		return host.ErrNotFound, first
	}
	for _, known := range knownErrors {
		if !strings.Contains(text, known.part) {
			continue
		}
		if known.message == "" {
			return known.kind, first
		}
		message = known.message
		if at := tomlPosition.FindString(text); at != "" {
			message += " (" + at + ")"
		}
		if f := unknownField.FindStringSubmatch(text); f != nil {
			message += ": unknown field " + f[1]
		}
		return known.kind, message
	}
	return nil, first
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line)
}

// maxText is how many characters of smolvm's message go into an error.
const maxText = 300

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// clean makes a text safe for a condition: it removes colours and control
// characters and limits the length. Parts of the text may come from a guest.
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
