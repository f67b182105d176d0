// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	client "k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	server "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/await"
	"botbottle.dev/bottle-operator/test/builders"
)

// executor is what a fake guest does with the streams of a command.
type executor func(ctx context.Context, command []string, in io.Reader, out, errs io.Writer, resize <-chan server.TerminalSize) error

func (f executor) ExecInContainer(ctx context.Context, _, _, _ string, command []string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan server.TerminalSize, _ time.Duration) error {
	return f(ctx, command, in, out, errs, resize)
}

// running returns a Bottle in whose machine users can work.
func running(name string) *builders.Bottle {
	return builders.MakeBottle(name).Namespace("default").UID("uid-of-" + name).On(testNode).
		Condition(condition(v1alpha1.ConditionScheduled, metav1.ConditionTrue)).
		Condition(condition(v1alpha1.ConditionMachineReady, metav1.ConditionTrue))
}

func condition(name string, status metav1.ConditionStatus) metav1.Condition {
	return metav1.Condition{Type: name, Status: status, Reason: "Because", Message: "the message of " + name}
}

// protocols are client-go's two ways to stream.
var protocols = map[string]func(cfg *rest.Config, u *url.URL) (client.Executor, error){
	"SPDY": func(cfg *rest.Config, u *url.URL) (client.Executor, error) {
		return client.NewSPDYExecutor(cfg, http.MethodPost, u)
	},
	"WebSocket": func(cfg *rest.Config, u *url.URL) (client.Executor, error) {
		return client.NewWebSocketExecutorForProtocols(cfg, http.MethodGet, u.String(), "v5.channel.k8s.io")
	},
}

func (w *world) execute(protocol, user, rawPath string, q url.Values, o client.StreamOptions) error {
	w.t.Helper()
	u, err := url.Parse(w.url + rawPath + "?" + q.Encode())
	must(w.t, err)
	cfg := w.as(user)
	cfg.Timeout = 0
	e, err := protocols[protocol](cfg, u)
	must(w.t, err)
	return e.StreamWithContext(w.t.Context(), o)
}

func query3(command ...string) url.Values {
	return url.Values{"command": command, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}}
}

// catAndExit copies its input to its output, its arguments to its errors, and exits
// with 42.
func catAndExit(_ context.Context, command []string, in io.Reader, out, errs io.Writer, _ <-chan server.TerminalSize) error {
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if _, err := io.WriteString(errs, strings.Join(command, " ")); err != nil {
		return err
	}
	return utilexec.CodeExitError{Err: errors.New("exit 42"), Code: 42}
}

// Both of client-go's executors carry the three streams and the exit code. The agent
// is always spoken to in SPDY.
func TestExec(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	w.agent.set(func(a *agent) { a.run = catAndExit })
	for protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			input := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
			out, errs := &bytes.Buffer{}, &bytes.Buffer{}
			err := w.execute(protocol, "alice-"+protocol, path("a", "exec"), query3("sh", "-c", "a b"), client.StreamOptions{Stdin: bytes.NewReader(input), Stdout: out, Stderr: errs})
			var exit clientexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 42 {
				t.Errorf("got error %v, want exit code 42", err)
			}
			if !bytes.Equal(out.Bytes(), input) {
				t.Errorf("got %d bytes of output, want the %d of the input", out.Len(), len(input))
			}
			if got := errs.String(); got != "sh -c a b" {
				t.Errorf("got errors %q, want the command", got)
			}
			asked := w.agent.requests()
			last := asked[len(asked)-1]
			if got := last.Header.Get("Upgrade"); !strings.EqualFold(got, "SPDY/3.1") {
				t.Errorf("got upgrade to %q on the hop to the agent, want SPDY", got)
			}
			if got, want := last.URL.Path, "/v1/bottles/default/a/uid-of-a/exec"; got != want {
				t.Errorf("got path %q, want %q", got, want)
			}
			if got := last.Header.Get("X-Remote-User"); got != "" {
				t.Errorf("the agent saw the header X-Remote-User %q", got)
			}
			await.True(t, "the last audit line", func() bool {
				return len(w.audit("Session ended", "alice-"+protocol, `"exitCode"=42`, `"bytesIn"=262144`, `"bytesOut"=262153`, "uid-of-a", `"result"="Completed"`)) == 1
			})
			if got := w.audit("0123456789"); len(got) > 0 {
				t.Errorf("content of the streams is in the audit lines: %s", got)
			}
			if got := w.audit("sh"); len(got) > 0 {
				t.Errorf("the command is in the audit lines: %s", got)
			}
		})
	}
}

// A WebSocket starts with a GET. Whoever has only the verb get must not run commands.
func TestExecNeedsCreate(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	w.agent.set(func(a *agent) { a.run = catAndExit })
	w.permit(func(s *authorizationv1.SubjectAccessReviewSpec) bool {
		return s.ResourceAttributes == nil || s.User == "writer" || s.ResourceAttributes.Verb == "get"
	})
	for _, verb := range []string{"exec", "attach"} {
		for protocol := range protocols {
			err := w.execute(protocol, "reader", path("a", verb), query3("true"), client.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
			if err == nil || !strings.Contains(err.Error(), "orbidden") {
				t.Errorf("%s by %s with the verb get alone: got %v, want Forbidden", verb, protocol, err)
			}
		}
		code, body := w.get(w.as("reader"), path("a", verb)+"?command=true&stdout=true")
		if code != http.StatusForbidden || !strings.Contains(body, "create") {
			t.Errorf("GET of %s: got %d %s, want 403 that names the verb create", verb, code, body)
		}
	}
	if got := w.agent.requests(); len(got) > 0 {
		t.Errorf("the agent was asked %d times", len(got))
	}
	for protocol := range protocols {
		var exit clientexec.CodeExitError
		err := w.execute(protocol, "writer", path("a", "exec"), query3("true"), client.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
		if !errors.As(err, &exit) {
			t.Errorf("with the verb create: got %v, want the exit code", err)
		}
	}
}
