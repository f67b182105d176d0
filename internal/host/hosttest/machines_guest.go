// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// guest runs the few commands that the fake supports.
type guest struct {
	env    []string
	answer func(string, host.ExecRequest) (int, error)
	read   func(path string) (string, bool)
	write  func(path, content string) error
}

// noCommand is the exit code for a program that the guest does not have.
const noCommand = 255

func (g guest) run(ctx context.Context, req host.ExecRequest) (int, error) {
	out, errs := writer(req.Stdout), writer(req.Stderr)
	argv := req.Command
	arg := ""
	if len(argv) > 1 {
		arg = argv[len(argv)-1]
	}
	switch {
	case argv[0] == "true", argv[0] == "sync":
		return 0, nil
	case argv[0] == "false":
		return 1, nil
	case argv[0] == "sleep":
		return sleepFor(ctx, arg, req.Timeout)
	case argv[0] == "cat" && len(argv) == 1:
		if req.Stdin != nil {
			if _, err := io.Copy(out, req.Stdin); err != nil {
				return 0, err
			}
		}
		return 0, nil
	case argv[0] == "cat" && arg == "/proc/self/environ":
		for _, kv := range g.env {
			_, _ = io.WriteString(out, kv+"\x00")
		}
		return 0, nil
	case argv[0] == "cat":
		content, ok := g.read(arg)
		if !ok {
			_, _ = fmt.Fprintf(errs, "cat: can't open '%s': No such file or directory\n", arg)
			return 1, nil
		}
		_, _ = io.WriteString(out, content)
		return 0, nil
	case strings.HasPrefix(argv[0], "/"):
		content, ok := g.read(argv[0])
		if ok && strings.HasPrefix(content, "\x7fELF") {
			if len(argv) == 1 {
				return 0, nil
			}
			req.Command = argv[1:]
			return g.run(ctx, req)
		}
		if ok {
			return g.script(strings.TrimSpace(strings.TrimPrefix(content, "#!/bin/sh\n")), req)
		}
	case argv[0] == "sh" && len(argv) == 3:
		return g.script(arg, req)
	}
	return noCommand, nil
}

// script runs one command, which "; exit N" may follow.
func (g guest) script(script string, req host.ExecRequest) (int, error) {
	if first, then, ok := strings.Cut(script, "; exit "); ok {
		if _, err := g.script(first, req); err != nil {
			return 0, err
		}
		script = "exit " + then
	}
	verb, arg, _ := strings.Cut(script, " ")
	switch {
	case script == "unset LINES; stty size" && req.TTY:
		size := <-req.Resize
		_, err := fmt.Fprintf(req.Stdout, "%d %d\r\n", size.Rows, size.Columns)
		return 0, err
	case verb == "unset" && req.TTY:
		return g.resized(req)
	case verb == "exit":
		return strconv.Atoi(arg)
	case script == "kill -9 $$":
		return 137, nil
	case verb == "cat" && strings.HasPrefix(arg, ">"):
		var b []byte
		if req.Stdin != nil {
			var err error
			if b, err = io.ReadAll(req.Stdin); err != nil {
				return 0, err
			}
		}
		if err := g.write(strings.TrimPrefix(arg, ">"), string(b)); err != nil {
			_, _ = fmt.Fprintf(writer(req.Stderr), "sh: %v\n", err)
			return 1, nil
		}
		return 0, nil
	case verb == "echo":
		text, toStderr := strings.CutSuffix(arg, " >&2")
		w := writer(req.Stdout)
		if toStderr {
			w = writer(req.Stderr)
		}
		_, err := io.WriteString(w, text+"\n")
		return 0, err
	}
	return 127, nil
}

// sleepFor runs until the time has passed, until limit (exit code 124), or until
// ctx ends.
func sleepFor(ctx context.Context, seconds string, limit time.Duration) (int, error) {
	d, err := time.ParseDuration(seconds + "s")
	if err != nil {
		return 1, nil
	}
	code := 0
	if limit > 0 && limit < d {
		d, code = limit, 124
	}
	select {
	case <-time.After(d):
		return code, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func writer(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// resized stands for a script that waits for a size of 26 rows and 90 columns, and then
// for a line.
func (g guest) resized(req host.ExecRequest) (int, error) {
	_, _ = io.WriteString(req.Stdout, "up\r\n")
	for size := range req.Resize {
		if size == (host.WindowSize{Columns: 90, Rows: 26}) {
			break
		}
	}
	_, _ = io.WriteString(req.Stdout, "resized\r\n")
	line := make([]byte, 100)
	n, err := req.Stdin.Read(line)
	_, _ = fmt.Fprintf(req.Stdout, "got %s\r\n", bytes.TrimSpace(line[:n]))
	return 0, err
}
