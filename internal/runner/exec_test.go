// SPDX-License-Identifier: Apache-2.0

package runner

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sh runs a shell script. Only these tests use a shell; the product does not.
func sh(script string) Command { return Command{Path: "/bin/sh", Args: []string{"-c", script}} }

func TestRunResult(t *testing.T) {
	tests := map[string]struct {
		cmd  Command
		want Result
		err  string // "" means success
	}{
		"success":              {cmd: sh("echo out; echo err >&2"), want: Result{Stdout: []byte("out\n"), Stderr: []byte("err\n")}},
		"exit code":            {cmd: sh("echo why >&2; exit 42"), want: Result{ExitCode: 42, Stderr: []byte("why\n")}, err: "sh: exit code 42: why"},
		"signal":               {cmd: sh("kill -9 $$"), want: Result{ExitCode: -1}, err: "sh: ended by signal 9 (killed)"},
		"no such program":      {cmd: Command{Path: "/nonexistent/x"}, want: Result{ExitCode: -1}, err: "x: did not start: fork/exec /nonexistent/x: no such file or directory"},
		"no stdin":             {cmd: sh("cat"), want: Result{}},
		"stdin":                {cmd: Command{Path: "/bin/cat", Stdin: strings.NewReader("in")}, want: Result{Stdout: []byte("in")}},
		"argv is not expanded": {cmd: Command{Path: "/bin/echo", Args: []string{"$HOME", "a b", "`id`"}}, want: Result{Stdout: []byte("$HOME a b `id`\n")}},
		"truncated": {
			cmd:  Command{Path: "/bin/sh", Args: []string{"-c", "printf 123456; printf abcdef >&2"}, MaxOutput: 4},
			want: Result{Stdout: []byte("1234"), Stderr: []byte("abcd"), Truncated: true},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Exec{}.Run(t.Context(), tt.cmd)
			if diff := cmp.Diff(tt.want, got, cmp.Transformer("text", func(b []byte) string { return string(b) })); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != tt.err {
				t.Errorf("error: got %q, want %q", text, tt.err)
			}
		})
	}
}

func TestEnvironmentIsExact(t *testing.T) {
	t.Setenv("RUNNER_TEST_LEAK", "1")
	for name, tt := range map[string]struct {
		env  []string
		want string
	}{
		"none": {nil, ""},
		"some": {[]string{"A=1", "B=x y"}, "A=1\nB=x y\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Exec{}.Run(t.Context(), Command{Path: "/usr/bin/env", Env: tt.env})
			if err != nil || string(got.Stdout) != tt.want {
				t.Errorf("got %q, %v, want %q", got.Stdout, err, tt.want)
			}
		})
	}
}

func TestOutputBeyondMaxOutputIsDrained(t *testing.T) {
	const size = 8 << 20 // far more than a pipe holds
	got, err := Exec{}.Run(t.Context(), Command{
		Path: "/bin/sh", MaxOutput: 100,
		Args: []string{"-c", "head -c 8388608 /dev/zero; head -c 8388608 /dev/zero >&2; exit 7"},
	})
	var e *Error
	if !errors.As(err, &e) || e.ExitCode != 7 || len(got.Stdout) != 100 || len(got.Stderr) != 100 || !got.Truncated {
		t.Errorf("got %d and %d bytes of %d, truncated %v, %v; want 100 each and exit code 7", len(got.Stdout), len(got.Stderr), size, got.Truncated, err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestFailingWriterDoesNotEndProgram(t *testing.T) {
	_, err := Exec{}.Run(t.Context(), Command{
		Path: "/bin/sh", Stdout: failing{},
		Args: []string{"-c", "trap 'exit 9' PIPE; head -c 1000000 /dev/zero || exit 8; exit 3"},
	})
	var e *Error
	if !errors.As(err, &e) || e.ExitCode != 3 {
		t.Errorf("got %v, want exit code 3", err)
	}
}

func TestStreams(t *testing.T) {
	in := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	var out, errs bytes.Buffer
	res, err := Exec{}.Run(t.Context(), Command{
		Path: "/bin/sh", Args: []string{"-c", "cat; echo done >&2"},
		Stdin: bytes.NewReader(in), Stdout: &out, Stderr: &errs, MaxOutput: 10,
	})
	if err != nil || !bytes.Equal(out.Bytes(), in) || errs.String() != "done\n" || res.Truncated {
		t.Errorf("got %d bytes, %q, truncated %v, %v; want all %d, done, false, nil", out.Len(), errs.String(), res.Truncated, err, len(in))
	}
}

func TestBlockedStdinDoesNotDelayResult(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	res, err := Exec{}.Run(t.Context(), Command{Path: "/bin/echo", Args: []string{"x"}, Stdin: r})
	if err != nil || string(res.Stdout) != "x\n" || res.Truncated {
		t.Errorf("got %q, truncated %v, %v; want x, false, nil without a wait for the input", res.Stdout, res.Truncated, err)
	}
}

// slowStart is a timeout in which a script gets going even on a busy machine.
const slowStart = 3 * time.Second

// On timeout, Run sends the caller's signal and then SIGKILL, both to the whole
// process group.
func TestTimeout(t *testing.T) {
	tests := map[string]struct {
		script string
		grace  time.Duration
		want   string // the content of the log file
	}{
		"cleans up on SIGINT": {`trap 'echo int >>"$0"; exit 0' INT; echo up >>"$0"; while :; do sleep 0.05; done`, time.Minute, "up\nint\n"},
		"ignores SIGINT":      {`trap '' INT; echo up >>"$0"; while :; do sleep 0.05; done`, 300 * time.Millisecond, "up\n"},
		"has a child":         {`trap '' INT; echo up >>"$0"; sh -c 'while :; do sleep 0.05; done'; sleep 60`, 300 * time.Millisecond, "up\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "log")
			_, err := Exec{}.Run(t.Context(), Command{
				Path: "/bin/sh", Args: []string{"-c", tt.script, file}, Env: []string{"PATH=/usr/bin:/bin"},
				Timeout: slowStart, Signal: syscall.SIGINT, Grace: tt.grace,
			})
			var e *Error
			if !errors.As(err, &e) || !e.TimedOut || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want a timeout", err)
			}
			got, _ := os.ReadFile(file)
			if string(got) != tt.want {
				t.Errorf("log: got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestKillEndsWholeProcessGroup(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	_, err := Exec{}.Run(t.Context(), Command{
		Path: "/bin/sh", Args: []string{"-c", `trap '' TERM; sh -c 'trap "" TERM; echo $$ >"$0"; sleep 60' "$0"; sleep 60`, file},
		Env: []string{"PATH=/usr/bin:/bin"}, Timeout: slowStart, Grace: 100 * time.Millisecond,
	})
	if err == nil {
		t.Fatal("got nil, want an error")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is alive, want it killed with its group", pid)
}

func TestCancelledContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err := Exec{}.Run(ctx, Command{Path: "/bin/sleep", Args: []string{"60"}, Timeout: NoTimeout})
	var e *Error
	if !errors.As(err, &e) || e.TimedOut || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if _, err := (Exec{}).Run(ctx, Command{Path: "/bin/true"}); !errors.Is(err, context.Canceled) {
		t.Errorf("context has ended: got %v, want Canceled without a start", err)
	}
}

func TestErrorTextContainsNoArguments(t *testing.T) {
	_, err := Exec{}.Run(t.Context(), Command{Path: "/bin/false", Args: []string{"--token=hunter2"}})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v, want an error without arguments", err)
	}
	var e *Error
	if !errors.As(err, &e) || len(e.Argv) != 2 {
		t.Errorf("got %v, want Argv to be set", e)
	}
}

func TestLeftoverProcessDoesNotDelayResult(t *testing.T) {
	t.Parallel()
	began := time.Now()
	res, err := Exec{}.Run(t.Context(), Command{Path: "/bin/sh", Args: []string{"-c", "sleep 20 & echo x"}, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil || string(res.Stdout) != "x\n" || !res.Truncated || time.Since(began) > 15*time.Second {
		t.Errorf("got %q, truncated %v, %v after %v; want x, true, nil after %v", res.Stdout, res.Truncated, err, time.Since(began), pipeDelay)
	}
}
