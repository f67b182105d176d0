// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

const warning = "\x1b[2m2026-11-23T13:56:58Z\x1b[0m \x1b[33m WARN\x1b[0m unable to lock UID registry; retaining assignment\n"

// TestExplain uses messages that real releases printed.
func TestExplain(t *testing.T) {
	const toml = "config operation failed: load smolfile: failed to parse /b/Smolfile: TOML parse error at line 1, column 21\n  |\n1 | env = [\"TOKEN=hunter2\", ]]\n  |  ^\nexpected newline, `#`\n"
	tests := []struct {
		stderr string
		code   int
		boots  bool
		want   error // nil: no known kind
		text   string
	}{
		{"Error: vm not found: nope\n", 1, false, host.ErrNotFound, "x: not found: vm not found: nope"},
		{`{"error":{"code":"NOT_FOUND","message":"vm not found: nope"}}` + "\n", 1, false, host.ErrNotFound, "x: not found: vm not found: nope"},
		{"Error: config operation failed: machine status: machine 'nope' not found\n", 1, false, host.ErrNotFound, ""},
		{"Error: config operation failed: create machine: machine 'm' already exists\n", 1, false, host.ErrConflict, ""},
		{`{"error":{"code":"CONFIG_ERROR","message":"config operation failed: create machine: machine 'm' already exists or is being created"}}`, 1, false, host.ErrConflict, ""},
		{"Error: " + toml, 1, false, host.ErrInvalid, "x: refused: smolvm cannot read the Smolfile (line 1, column 21)"},
		{warning + "Error: " + toml + warning, 1, false, host.ErrInvalid, "x: refused: smolvm cannot read the Smolfile (line 1, column 21)"},
		{`{"error":{"code":"CONFIG_ERROR","message":"config operation failed: load smolfile: failed to parse F: TOML parse error at line 3, column 1\n  |\n3 | bogus = \"hunter2\"\nunknown field ` + "`bogus`" + `, expected one of ` + "`image`" + `"}}`, 1, false, host.ErrInvalid,
			"x: refused: smolvm cannot read the Smolfile (line 3, column 1): unknown field bogus"},
		{"Error: config operation failed: load smolfile: failed to read /b/Smolfile: No such file or directory (os error 2)\n", 1, false, host.ErrInvalid, ""},
		{"Error: config operation failed: validate resources: memory must be at least 64 MiB (got 1 MiB)\n", 1, false, host.ErrInvalid, ""},
		{"Error: config operation failed: create from .smolmachine: file not found: /x\n", 1, false, host.ErrInvalid, ""},
		{"Error: agent operation failed: read .smolmachine: unsupported version: 3\n", 1, false, host.ErrInvalid, ""},
		{"Error: agent operation failed: read checkpoint footer: invalid magic: expected SMOLPACK\n", 1, false, host.ErrInvalid, ""},
		{"Error: agent operation failed: verify checkpoint checksum: checksum mismatch for /x\n", 1, false, host.ErrInvalid, ""},
		{"Error: agent operation failed: platform mismatch: this artifact is built for architecture 'arm64'\n", 1, false, host.ErrInvalid, ""},
		// The disk may be full: worth retrying.
		{"Error: agent operation failed: extract sidecar: archive header checksum mismatch\n", 1, false, nil, ""},
		{"Error: mount source not found: /nonexistent\n", 1, false, host.ErrInvalid, ""},
		{"Error: agent operation failed: connect: machine 'm' is not running. Use 'smolvm machine start --name m' first.\n", 1, false, host.ErrNotRunning, ""},
		{"Error: database operation failed: reserve vm 'm': database is locked\n", 1, false, errLocked, ""},
		{"Error: database operation failed: reserve vm 'm': database is locked\n", 1, true, errLocked, ""},
		{"Error: database operation failed: configure pragmas: file is not a database\n", 1, false, host.ErrUnavailable, ""},
		{warning + "Error: agent operation failed: start machine: agent operation failed: monitor agent: x (boot process exited (code 1) before the agent was ready)\n", 1, true, host.ErrBootFailed, ""},
		{"Error: agent operation failed: start machine: agent operation failed: monitor agent: KvmContext(KvmOpen(Error(13))) (boot process exited (code 1) before the agent was ready)\n", 1, true, host.ErrBootFailed,
			"x: machine did not boot: the machine's VMM may not open the KVM device: every user must have access to it"},
		{"Error: agent operation failed: start machine: kvm not available: KVM not available.\nTry: sudo modprobe kvm\n", 1, true, host.ErrBootFailed, "x: machine did not boot: the node has no KVM"},
		{"Error: agent operation failed: start background CMD: run container detached: Permission denied (os error 13)\n", 1, true, host.ErrBootFailed, ""},
		{"Error: config operation failed: secrets: secret 'T': failed to read /b/t\n", 1, true, host.ErrBootFailed, ""},
		{"Error: something new\n", 1, true, host.ErrBootFailed, "x: machine did not boot: something new"},
		{"Error: agent operation failed: start machine: another process is already starting or running this VM\n", 1, true, nil, "x: another process is starting it"},
		{"Error: agent operation failed: stop agent: process 7 still alive after stop attempts\n", 1, false, nil, ""},
		{"Error: something new\n", 1, false, nil, "x: something new"},
		{"error: unexpected argument '--bogus' found\n\nUsage: smolvm …\n", 2, false, host.ErrUnsupported, ""},
		{"error: invalid value '256' for '--cpus <N>': 256 is not in 0..=255\n", 2, false, host.ErrInvalid, ""},
		{"", 1, false, nil, "x: smolvm ended with exit code 1"},
		{"thread 'main' panicked at stdio.rs\n", 101, false, nil, "x: smolvm ended with exit code 101"},
	}
	kinds := []error{host.ErrNotFound, host.ErrConflict, host.ErrInvalid, host.ErrUnsupported, host.ErrUnavailable, host.ErrBootFailed, host.ErrNotRunning}
	for _, tt := range tests {
		res := runner.Result{ExitCode: tt.code, Stderr: []byte(tt.stderr)}
		run := &runner.Error{Argv: []string{"smolvm"}, Started: true, ExitCode: tt.code, Tail: tt.stderr}
		err := explain(call{what: "x", boots: tt.boots}, res, run)
		if tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%q: got %v, want an error that is %q", tt.stderr, err, tt.want)
		}
		for _, kind := range kinds {
			if errors.Is(err, kind) && !errors.Is(tt.want, kind) && !(errors.Is(tt.want, errLocked) && errors.Is(kind, host.ErrUnavailable)) {
				t.Errorf("%q: the error is also %q, want only %v", tt.stderr, kind, tt.want)
			}
		}
		if tt.text != "" && err.Error() != tt.text {
			t.Errorf("%q:\n got %q\nwant %q", tt.stderr, err, tt.text)
		}
		if strings.Contains(err.Error(), "hunter2") || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%q: got %q, want it to contain no value and no control character", tt.stderr, err)
		}
	}
}

func TestExplainWithoutExitCode(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want error
	}{
		"no binary":    {&runner.Error{ExitCode: -1, Err: errors.New("no such file")}, host.ErrUnavailable},
		"time over":    {&runner.Error{ExitCode: -1, Started: true, TimedOut: true, Err: context.DeadlineExceeded}, host.ErrUnavailable},
		"timed out":    {&runner.Error{ExitCode: -1, Started: true, TimedOut: true, Err: context.DeadlineExceeded}, errTimedOut},
		"cancelled":    {&runner.Error{ExitCode: -1, Started: true, Err: context.Canceled}, context.Canceled},
		"not a *Error": {fmt.Errorf("no run: %w", context.Canceled), context.Canceled},
	} {
		if err := explain(call{what: "x"}, runner.Result{}, tt.err); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want an error that is %q", name, err, tt.want)
		}
	}
}

func TestExitCode(t *testing.T) {
	tests := map[string]struct {
		code   int
		stderr string
		want   int
		err    error
	}{
		"of the command":         {42, "", 42, nil},
		"1 of the command":       {1, "grep: nothing\n", 1, nil},
		"1 with its own Error":   {1, "Error: cannot find module\n", 1, nil},
		"1 of smolvm":            {1, "Error: agent operation failed: connect: machine 'm' is not running.\n", 0, host.ErrNotRunning},
		"1 of smolvm as JSON":    {1, `{"error":{"code":"NOT_FOUND","message":"vm not found: m"}}`, 0, host.ErrNotFound},
		"1, JSON of the command": {1, `{"error":{"code":"E","message":"mine"}}`, 1, nil},
		"2 of the command":       {2, "usage: x\n", 2, nil},
		"not spawned":            {1, "Error: agent operation failed: exec: failed to spawn command: x: No such file\n", 255, nil},
		"101":                    {101, "", 101, nil},
	}
	for name, tt := range tests {
		run := &runner.Error{Started: true, ExitCode: tt.code}
		got, err := exitCode(call{what: "x"}, runner.Result{Stderr: []byte(tt.stderr)}, run)
		if got != tt.want || !errors.Is(err, tt.err) || tt.err == nil && err != nil {
			t.Errorf("%s: got %d, %v, want %d, %v", name, got, err, tt.want, tt.err)
		}
	}
}

func TestClean(t *testing.T) {
	long := strings.Repeat("ä", maxText+10)
	for in, want := range map[string]string{
		"a\x1b[31mb\x1b[0m\tc\nd": "ab c d",
		"\x00\u202etrick\xff":     "trick",
		long:                      long[:2*maxText] + "…",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
