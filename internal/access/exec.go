// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"k8s.io/utils/exec"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/supervise"
)

const (
	// silenceTimeout ends a session whose client has sent nothing, not even an answer to
	// a ping; it has kubelet's value.
	silenceTimeout = 4 * time.Hour
	// streamTimeout is how long a client may take to open its streams.
	streamTimeout = 30 * time.Second
	// maxArguments and maxArgument bound a command. Linux runs no program with a longer
	// argument.
	maxArguments = 1024
	maxArgument  = 128<<10 - 1
)

var errMachineFull = errors.New("the machine has as many sessions as it can serve")

// exec runs a command in the guest.
func (s *Server) exec(c *session) error {
	argv := c.query["command"]
	if err := checkCommand(argv); err != nil {
		return c.fail(apierrors.NewBadRequest(err.Error()))
	}
	k := command
	switch purpose := subresources.ExecPurpose(c.query.Get("purpose")); {
	case purpose == subresources.PurposeFiles:
		if c.bottle.Finished && !c.bottle.FilesOpen {
			return c.fail(apierrors.NewServiceUnavailable("the Bottle has finished, and its machine does not run for copies now; try again"))
		}
		k = copying
	case purpose != "":
		return c.fail(apierrors.NewBadRequest("purpose: want Files or nothing"))
	case c.bottle.Finished:
		return c.fail(apierrors.NewConflict(bottles, c.bottle.Owner.Name, errors.New("the Bottle has finished; only its files can still be copied")))
	}
	return s.run(c, k, argv)
}

// checkCommand returns an error if no guest can run argv.
func checkCommand(argv []string) error {
	switch {
	case len(argv) == 0 || argv[0] == "":
		return errors.New("command: required")
	case len(argv) > maxArguments:
		return fmt.Errorf("command: at most %d arguments", maxArguments)
	}
	for _, arg := range argv {
		if len(arg) > maxArgument || strings.ContainsRune(arg, 0) {
			return fmt.Errorf("command: each argument has at most %d bytes and no NUL", maxArgument)
		}
	}
	return nil
}

// attach connects to the workload by running a client of the supervisor in the guest.
func (s *Server) attach(c *session) error {
	if !c.bottle.Supervised {
		return c.fail(apierrors.NewBadRequest("the machine has no supervisor to attach to: the node's smolvm is too old to run one, or the Bottle has neither a command nor an image with one"))
	}
	if c.bottle.Finished {
		return c.fail(apierrors.NewConflict(bottles, c.bottle.Owner.Name, errors.New("the Bottle has finished; its log is still there")))
	}
	argv := []string{supervise.In + "/" + supervise.Program, "attach"}
	if flag(c.query, "stdin") {
		if !c.bottle.Stdin {
			return c.fail(apierrors.NewBadRequest("stdin: the workload has no input, because spec.stdin is Closed"))
		}
		argv = append(argv, "--stdin")
	}
	if flag(c.query, "tty") != c.bottle.Terminal {
		return c.fail(apierrors.NewBadRequest("tty: must be set exactly if spec.stdin is Terminal"))
	}
	if c.bottle.Terminal {
		argv = append(argv, "--tty")
	}
	return s.run(c, command, argv)
}

// run runs a command in the guest, with the streams of the client.
func (s *Server) run(c *session, k kind, argv []string) error {
	streams := remotecommand.Options{
		Stdin: flag(c.query, "stdin"), Stdout: flag(c.query, "stdout"), Stderr: flag(c.query, "stderr"), TTY: flag(c.query, "tty"),
	}
	switch {
	case streams.TTY && streams.Stderr:
		return c.fail(apierrors.NewBadRequest("stderr: must be false with a tty, because it is part of stdout"))
	case !streams.Stdin && !streams.Stdout && !streams.Stderr:
		return c.fail(apierrors.NewBadRequest("stdin, stdout, stderr: at least one is required"))
	case !httpstream.IsUpgradeRequest(c.r) || wsstream.IsWebSocketRequest(c.r):
		return c.fail(apierrors.NewBadRequest("the request must be upgraded to SPDY/3.1"))
	}
	id := c.bottle.Owner.ID()
	version, err := s.Machines.Version(c.r.Context())
	if err != nil {
		return c.fail(err)
	}
	running, err := s.Machines.Lives(c.r.Context(), id)
	if err != nil {
		return c.fail(err)
	}
	if !running {
		return c.fail(host.ErrNotRunning)
	}
	end, err := s.Sessions.begin(c.bottle.Owner.UID, k, version.Sessions)
	if errors.Is(err, errMachineFull) {
		err = tooMany("the machine runs %d commands for users, the most that it can with smolvm %s; end another one or try again", version.Sessions, version.Version)
	}
	if err != nil {
		return c.fail(err)
	}
	defer end()
	// The context of the request does not end when the client of an upgraded connection
	// goes.
	ctx, cancel := context.WithCancelCause(c.r.Context())
	defer cancel(nil)
	w := &hijacker{
		ResponseWriter: c.w, ctx: ctx, gone: func() { cancel(errClientGone) },
		streams: streamCount(streams), started: make(chan struct{}),
	}
	defer w.close()
	e := &execution{machines: s.Machines, session: c, ctx: ctx, argv: argv, streamed: w.started}
	remotecommand.ServeExec(w, c.r, e, id, "", "", argv, &streams, silenceTimeout, streamTimeout, []string{remotecommand.StreamProtocolV4Name})
	if !e.started {
		return errors.New("the client opened no streams")
	}
	return e.err
}

// streamCount returns how many streams a client opens: one of them is for errors, and
// one for the sizes of a terminal.
func streamCount(o remotecommand.Options) int {
	n := 1
	for _, wanted := range []bool{o.Stdin, o.Stdout, o.Stderr, o.TTY} {
		if wanted {
			n++
		}
	}
	return n
}

var errClientGone = errors.New("the client is gone")

// execution runs the command of one session once its streams are open.
type execution struct {
	machines host.Machines
	session  *session
	ctx      context.Context
	argv     []string
	streamed chan struct{} // closed once the streams are open

	started bool
	err     error
}

// ExecInContainer implements remotecommand.Executor.
func (e *execution) ExecInContainer(_ context.Context, name, _, _ string, _ []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	e.started = true
	close(e.streamed)
	req := host.ExecRequest{Command: e.argv, TTY: tty}
	if in != nil {
		req.Stdin = countReader{in, &e.session.in}
	}
	if out != nil {
		req.Stdout = countWriter{out, &e.session.out}
	}
	if errs != nil {
		req.Stderr = countWriter{errs, &e.session.out}
	}
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	if resize != nil {
		req.Resize = sizes(ctx, resize)
	}
	code, err := e.machines.Exec(ctx, name, req)
	switch {
	case e.ctx.Err() != nil:
		e.err = context.Cause(e.ctx)
		return nil // there is nobody to tell
	case err != nil:
		// smolvm's own text is part of the client's stderr.
		e.err = asStatus(err, e.session.bottle.Owner.Name)
	default:
		e.session.exitCode = &code
		if code != 0 {
			return exec.CodeExitError{Err: fmt.Errorf("exit code %d", code), Code: code}
		}
	}
	return e.err
}

// sizes passes the sizes of a terminal on until ctx ends.
func sizes(ctx context.Context, from <-chan remotecommand.TerminalSize) <-chan host.WindowSize {
	to := make(chan host.WindowSize)
	go func() {
		defer close(to)
		for {
			select {
			case size, ok := <-from:
				if !ok {
					return
				}
				select {
				case to <- host.WindowSize{Columns: size.Width, Rows: size.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

// flag returns a parameter that is true or false.
func flag(query map[string][]string, name string) bool {
	v := http.Header(query)[name]
	return len(v) > 0 && (v[0] == "true" || v[0] == "1")
}
