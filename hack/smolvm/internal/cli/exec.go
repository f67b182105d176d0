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

// outputLimit is how much of each of stdout and stderr an exec without -i
// brings back.
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
		return a.verdict(rec, o)
	case args.Has("interactive") || args.Has("tty"):
		return a.execThrough(rec, r)
	}
	return a.execLimited(rec, r, args)
}

// execRequest gathers the environment: the image's, the machine's, the
// flags', and secrets last.
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
		limit, _ := parseDuration(args.Get("timeout")) // checked when it was parsed
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

// execThrough passes data as it comes, without limit.
func (a *app) execThrough(rec *machine.Record, r *wire.Request) error {
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
	return a.verdict(rec, o)
}

// terminal hands the size of ours on and, if we have one, makes it raw.
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

// execLimited brings back what fits. Beyond that a container's output is cut
// without a word, a bare machine's is an error, and a stream's is an error
// after what fits.
func (a *app) execLimited(rec *machine.Record, r *wire.Request, args *cmdline.Args) error {
	var out, errs bytes.Buffer
	cut := &limit{}
	s := streams{stdout: cut.of(&out), stderr: cut.of(&errs)}
	if args.Has("stream") {
		s = streams{stdout: cut.of(a.stdout), stderr: cut.of(a.stderr)}
	}
	o, err := a.converse(rec.Name, r, s)
	if err != nil {
		return err
	}
	bare := rec.Image == ""
	if cut.reached && (bare || args.Has("stream")) {
		return agentError("exec", "agent error: command output exceeded %d bytes", outputLimit)
	}
	if _, err := a.stdout.Write(out.Bytes()); err != nil {
		return err
	}
	if _, err := a.stderr.Write(errs.Bytes()); err != nil {
		return err
	}
	return a.verdict(rec, o)
}

// limit passes so many bytes of each stream and swallows the rest.
type limit struct{ reached bool }

func (l *limit) of(w io.Writer) io.Writer { return &limited{l, w, outputLimit} }

type limited struct {
	*limit
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	if n < len(b) {
		l.reached = true
	}
	if _, err := l.to.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// verdict turns an outcome into the command's own.
func (a *app) verdict(rec *machine.Record, o *wire.Outcome) error {
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
