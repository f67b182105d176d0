// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/cmdline"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/wire"
)

// outputLimit is the number of bytes of stdout, and of stderr, that an exec without
// -i returns.
const outputLimit = 11_534_336

func (a *app) exec(args *cmdline.Args) error {
	name := target(args)
	rec, err := a.reachable(name)
	if err != nil && !args.Has("name") && isNotFound(err) {
		return agentError("connect", "machine '%s' not found", name)
	}
	if err != nil {
		return err
	}
	r, err := a.execRequest(rec, args)
	if err != nil {
		return err
	}
	switch {
	case args.Has("detach"):
		o, err := a.converse(name, r, streams{})
		if err != nil {
			return err
		}
		if o.Error == "" {
			fmt.Fprintln(a.stdout, o.PID)
		}
		return a.outcomeError(rec, o)
	case args.Has("interactive") || args.Has("tty"):
		return a.execUnlimited(rec, r)
	}
	return a.execLimited(rec, r, args)
}

// execRequest builds the request for an exec. The environment consists of the
// image's, the machine's and the flags' variables, followed by secrets.
func (a *app) execRequest(rec *machine.Record, args *cmdline.Args) (*wire.Request, error) {
	img, err := a.openImage(rec)
	if err != nil {
		return nil, err
	}
	r := &wire.Request{Op: wire.Exec, Argv: args.Trailing, Stdin: args.Has("interactive"), TTY: args.Has("tty"), Detach: args.Has("detach")}
	r.Env = append(r.Env, img.Config.Env...)
	for _, kv := range rec.Env {
		r.Env = append(r.Env, kv[0]+"="+kv[1])
	}
	d := &draft{app: a, rec: &machine.Record{}}
	for _, kv := range args.All("env") {
		d.addEnv(kv)
	}
	for _, kv := range d.rec.Env {
		r.Env = append(r.Env, kv[0]+"="+kv[1])
	}
	refs, err := secretFlags(args)
	if err != nil {
		return nil, err
	}
	for _, refs := range []map[string]machine.Secret{rec.SecretRefs, refs} {
		env, err := a.resolveSecrets(refs)
		if err != nil {
			return nil, err
		}
		r.Env = append(r.Env, env...)
	}
	r.Workdir = firstOf(args.Get("workdir"), rec.Workdir, img.Config.WorkingDir)
	r.User = firstOf(args.Get("user"), rec.User, img.Config.User)
	if args.Has("timeout") {
		limit, _ := parseDuration(args.Get("timeout")) // the parser has validated it
		r.TimeoutMS = limit.Milliseconds()
	}
	return r, nil
}

func firstOf(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

// execUnlimited copies stdin and the output while the command runs, without a limit.
func (a *app) execUnlimited(rec *machine.Record, r *wire.Request) error {
	s := streams{stdout: a.stdout, stderr: a.stderr}
	if r.Stdin {
		s.stdin = a.stdin
	}
	if r.TTY {
		restore := a.terminal(r, &s)
		defer restore()
	}
	o, err := a.converse(rec.Name, r, s)
	if err != nil {
		return err
	}
	return a.outcomeError(rec, o)
}

// terminal prepares an exec with a terminal. If stdin is a terminal, it passes the
// size on and switches stdin to raw mode; the caller must call restore.
func (a *app) terminal(r *wire.Request, s *streams) (restore func()) {
	fd := int(a.stdin.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		r.Rows, r.Cols = 24, 80
		return func() {}
	}
	if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
		r.Rows, r.Cols = ws.Row, ws.Col
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	_ = unix.IoctlSetTermios(fd, unix.TCSETS, &raw)
	s.control = func(c *wire.Conn) { followSize(fd, c) }
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }
}

// followSize sends each change of the terminal's size to the guest.
func followSize(fd int, c *wire.Conn) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		for range changed {
			if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
				b := binary.BigEndian.AppendUint16(nil, ws.Row)
				_ = c.Write(wire.Resize, binary.BigEndian.AppendUint16(b, ws.Col))
			}
		}
	}()
}

// execLimited returns output up to outputLimit. Longer output of a machine with an
// image is silently truncated. For a machine without an image, longer output is an
// error and nothing is printed. With --stream it is an error after the first
// outputLimit bytes were printed.
func (a *app) execLimited(rec *machine.Record, r *wire.Request, args *cmdline.Args) error {
	var out, errs bytes.Buffer
	l := &limit{}
	s := streams{stdout: l.writer(&out), stderr: l.writer(&errs)}
	if args.Has("stream") {
		s = streams{stdout: l.writer(a.stdout), stderr: l.writer(a.stderr)}
	}
	o, err := a.converse(rec.Name, r, s)
	if err != nil {
		return err
	}
	bare := rec.Image == ""
	if l.exceeded && (bare || args.Has("stream")) {
		return agentError("exec", "agent error: command output exceeded %d bytes", outputLimit)
	}
	if _, err := a.stdout.Write(out.Bytes()); err != nil {
		return err
	}
	if _, err := a.stderr.Write(errs.Bytes()); err != nil {
		return err
	}
	return a.outcomeError(rec, o)
}

// limit records whether any of its writers got more than outputLimit bytes.
type limit struct{ exceeded bool }

// writer returns a writer that passes outputLimit bytes to w and discards the rest.
func (l *limit) writer(w io.Writer) io.Writer { return &limitedWriter{l, w, outputLimit} }

type limitedWriter struct {
	*limit
	to   io.Writer
	left int
}

func (l *limitedWriter) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if n < len(b) {
		l.exceeded = true
	}
	if _, err := l.to.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// outcomeError returns the error, and so the exit code, for the outcome of an exec.
func (a *app) outcomeError(rec *machine.Record, o *wire.Outcome) error {
	switch {
	case o.NotFound && rec.Image != "":
		fmt.Fprintln(a.stderr, strings.TrimPrefix(o.Error, "failed to spawn command: "))
		return exitStatus(255)
	case o.NotFound && a.rel.AtLeast("1.32.2"):
		fmt.Fprintln(a.stderr, o.Error)
		return exitStatus(255)
	case o.Error != "":
		return agentError("exec", "agent error: %s", o.Error)
	case o.TimedOut:
		return exitStatus(124)
	case o.Signal != 0 && !a.rel.AtLeast("0.8.1"):
		return exitStatus(255)
	case o.Signal != 0:
		return exitStatus(128 + o.Signal)
	case o.Code != 0:
		return exitStatus(o.Code)
	}
	return nil
}
