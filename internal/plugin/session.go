// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/remotecommand"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/interrupt"
	"k8s.io/kubectl/pkg/util/term"
	"k8s.io/streaming/pkg/httpstream"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

// session is one exec or attach. A stream that is nil is not opened.
type session struct {
	name    string
	command []string // empty for attach
	purpose subresources.ExecPurpose
	in      io.Reader
	out     io.Writer
	errOut  io.Writer
	// terminal is set if the session has a terminal.
	terminal *term.TTY
}

// useTerminal gives the session a terminal, if its input is one.
func (s *session) useTerminal() {
	t := term.TTY{In: s.in, Out: s.out, Raw: true}
	if !t.IsTerminalIn() {
		fmt.Fprintln(s.errOut, "Unable to use a TTY - input is not a terminal or the right kind of file")
		return
	}
	// A signal ends the session's context, and with it the session. The terminal is
	// restored in either case.
	t.Parent = interrupt.New(func(os.Signal) {})
	s.terminal, s.errOut = &t, nil // with a terminal, both outputs are one
}

// parameters returns the subresource and its parameters.
func (s *session) parameters() (string, runtime.Object) {
	if len(s.command) == 0 {
		return "attach", &subresources.BottleAttachOptions{
			Stdin: s.in != nil, Stdout: s.out != nil, Stderr: s.errOut != nil, TTY: s.terminal != nil,
		}
	}
	return "exec", &subresources.BottleExecOptions{
		Command: s.command, Purpose: s.purpose,
		Stdin: s.in != nil, Stdout: s.out != nil, Stderr: s.errOut != nil, TTY: s.terminal != nil,
	}
}

// stream runs the session to its end, over a WebSocket or over SPDY. A command that fails is
// a CodeExitError.
func (c *client) stream(ctx context.Context, s *session) error {
	subresource, parameters := s.parameters()
	url := c.sub.Post().Namespace(c.namespace).Resource("bottles").Name(s.name).SubResource(subresource).
		VersionedParams(parameters, parameterCodec).URL()
	run := func(sizes remotecommand.TerminalSizeQueue) error {
		err := c.execute(ctx, url, remotecommand.StreamOptions{
			Stdin: s.in, Stdout: s.out, Stderr: s.errOut, Tty: s.terminal != nil, TerminalSizeQueue: sizes,
		})
		if cause := context.Cause(ctx); cause != nil && err != nil {
			return cause
		}
		return err
	}
	if s.terminal == nil {
		return run(nil)
	}
	// The goroutine that watches the size ends with Safe.
	sizes := sizeQueue{s.terminal.MonitorSize(s.terminal.GetSize())}
	return s.terminal.Safe(func() error { return run(sizes) })
}

// execute opens the streams and waits for the end. It prefers a WebSocket, except for input
// that nobody types. The fallback to SPDY is kubectl's, but it keeps the API server's answer to the WebSocket: SPDY's error has only its text.
func (c *client) execute(ctx context.Context, url *url.URL, streams remotecommand.StreamOptions) error {
	spdy, err := remotecommand.NewSPDYExecutor(c.config, http.MethodPost, url)
	if err != nil {
		return err
	}
	if cmdutil.RemoteCommandWebsockets.IsDisabled() { // as in kubectl
		return spdy.StreamWithContext(ctx, streams)
	}
	webSocket, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, url.String())
	if err != nil {
		return err
	}
	if streams.Stdin != nil && !streams.Tty {
		return executeWithInput(ctx, spdy, webSocket, streams)
	}
	var answer *apierrors.StatusError
	executor, err := remotecommand.NewFallbackExecutor(webSocket, spdy, func(err error) bool {
		var failure *httpstream.UpgradeFailureError
		if errors.As(err, &failure) && errors.As(failure.Cause, &answer) {
			// Something on the way may have turned the WebSocket into another request, and
			// a WebSocket is a GET, which needs another right than a POST. Any other answer
			// would be the same for SPDY.
			return answer.ErrStatus.Code == http.StatusBadRequest || answer.ErrStatus.Code == http.StatusForbidden
		}
		return failure != nil || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return err
	}
	err = executor.StreamWithContext(ctx, streams)
	if err != nil && answer != nil && !exitCode(err) {
		return answer
	}
	return err
}

// executeWithInput runs a session with input that nobody types. It prefers SPDY, because the
// client of a WebSocket ends the session if its pings are not answered for a minute, and
// they wait behind input that the command has not read.
func executeWithInput(ctx context.Context, spdy, webSocket remotecommand.Executor, streams remotecommand.StreamOptions) error {
	err := spdy.StreamWithContext(ctx, streams)
	if err == nil || !strings.HasPrefix(err.Error(), "unable to upgrade connection: ") {
		return err
	}
	// SPDY's error has only the text of the API server's answer.
	err = webSocket.StreamWithContext(ctx, streams)
	var failure *httpstream.UpgradeFailureError
	var answer *apierrors.StatusError
	if errors.As(err, &failure) && errors.As(failure.Cause, &answer) {
		return answer
	}
	return err
}

// sizeQueue passes the sizes of the terminal on to client-go, which has a type of its
// own for them.
type sizeQueue struct{ term.TerminalSizeQueue }

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	if q.TerminalSizeQueue == nil {
		return nil
	}
	size := q.TerminalSizeQueue.Next()
	if size == nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: size.Width, Height: size.Height}
}

// run runs the session of a verb: the first signal ends it.
func (p *plugin) run(parent context.Context, s *session) error {
	ctx, cancel := p.interruptible(parent)
	defer cancel()
	c, err := p.client()
	if err != nil {
		return err
	}
	if err := c.stream(ctx, s); err != nil {
		return explainSession(err)
	}
	return nil
}

// explainSession adds what to do to an error that kubectl's words do not explain.
func explainSession(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the session ended before the command did: the node's agent or the manager was restarted, or the connection broke")
	}
	return err
}
