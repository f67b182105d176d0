// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/time/rate"

	"botbottle.dev/bottle-operator/internal/bundlelog"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// maxLogLine is the length of the longest line that is read, in bytes,
	// including docker's timestamp. Longer lines are not decisions.
	maxLogLine = bundlelog.MaxLine
	// logBytes is how much of a container's log is read per second on average,
	// and logBytesBurst how much at once. The built-in bundle writes less.
	logBytes      = 64 << 10
	logBytesBurst = 1 << 20
)

// FollowDecisions implements host.Bundles.
func (e *Engine) FollowDecisions(ctx context.Context, owner host.Owner, since time.Time, decided func(host.Decision)) error {
	what := fmt.Sprintf("follow the log of docker container %q", owner.ID())
	c, err := e.findBundle(ctx, owner)
	if err == nil {
		err = e.followResult(ctx, what, c, e.followLog(ctx, c.ID, since, decided))
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// followResult returns nil if the log ended because the container's run ended,
// and ErrUnavailable if the log was lost while the container runs. lost is the
// cause, or nil if it is not known.
func (e *Engine) followResult(ctx context.Context, what string, before container.InspectResponse, lost error) error {
	now, err := e.findBundle(ctx, ownerOf(before.Config.Labels))
	switch {
	case absent(err):
		return nil
	case err != nil:
		return err
	case now.ID != before.ID, !now.State.Running, now.State.StartedAt != before.State.StartedAt:
		return nil
	case lost == nil:
		lost = errors.New("it ended while the container was running")
	}
	// lost is not wrapped: it may be a cancellation inside this package, which
	// must not look like the end of the caller's context.
	return fmt.Errorf("%s: %w: %s", what, host.ErrUnavailable, lost.Error())
}

// followLog reads the log's stream until it ends. It returns nil if dockerd ends
// the stream properly.
func (e *Engine) followLog(ctx context.Context, id string, since time.Time, decided func(host.Decision)) error {
	options := client.ContainerLogsOptions{ShowStdout: true, Follow: true, Timestamps: true, Since: logTime(since)}
	lines := &lines{line: func(line []byte) {
		if d, ok := decisionIn(line); ok {
			decided(d)
		}
	}}
	limit := rate.NewLimiter(e.logBytes, logBytesBurst)
	return e.readStream(ctx, id, options, func(ctx context.Context, stream io.Reader) error {
		_, err := stdcopy.StdCopy(lines, io.Discard, slowly(ctx, stream, limit))
		return err
	})
}

// logTime is a time in the form that docker expects; "" for the zero time.
func logTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.Unix(), 10) + "." + nanos(t)
}

// readStream opens a container's log and calls read. It ends the stream when docker
// stops answering.
func (e *Engine) readStream(ctx context.Context, id string, options client.ContainerLogsOptions, read func(ctx context.Context, stream io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// ContainerLogs returns when docker has answered; the timer bounds this wait.
	opening := time.AfterFunc(readTimeout, cancel)
	var stream io.ReadCloser
	err := e.version.retry(ctx, func(ctx context.Context) (err error) {
		stream, err = e.streams().ContainerLogs(ctx, id, options)
		return err
	})
	opening.Stop()
	if err != nil {
		return err
	}
	defer stream.Close()
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		e.cancelWhenGone(ctx, cancel)
	}()
	err = read(ctx, stream)
	cancel()
	<-checked
	return err
}

// cancelWhenGone calls cancel when docker stops answering: a hanging dockerd does
// not close its streams.
func (e *Engine) cancelWhenGone(ctx context.Context, cancel context.CancelFunc) {
	check := time.NewTicker(e.streamCheck)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			if err := e.Ping(ctx); err != nil {
				cancel()
				return
			}
		}
	}
}

// readerFunc is an io.Reader.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// slowly returns a reader that reads from r no faster than limit, in bytes per second,
// until ctx ends. While it waits, dockerd waits too, and skips what the log's files no
// longer hold.
func slowly(ctx context.Context, r io.Reader, limit *rate.Limiter) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p[:min(len(p), limit.Burst())])
		if werr := limit.WaitN(ctx, n); werr != nil {
			return 0, werr
		}
		return n, err
	})
}

// lines is a writer that splits its input into lines and calls line for each. It
// leaves out lines that are too long, however the input is divided into writes.
type lines struct {
	line func([]byte)
	held []byte // the beginning of an unfinished line
	long bool   // the unfinished line is too long
}

// Write implements io.Writer; it never returns an error.
func (l *lines) Write(p []byte) (int, error) {
	for rest := p; ; {
		head, tail, ended := bytes.Cut(rest, []byte{'\n'})
		if len(l.held)+len(head) > maxLogLine {
			l.long, l.held = true, l.held[:0]
		}
		if !l.long {
			l.held = append(l.held, head...)
		}
		if !ended {
			return len(p), nil
		}
		if !l.long {
			l.line(l.held)
		}
		l.held, l.long, rest = l.held[:0], false, tail
	}
}

// decisionIn parses a line of docker's log: a timestamp, a space, and the text
// that the container wrote.
func decisionIn(line []byte) (host.Decision, bool) {
	stamp, text, _ := bytes.Cut(line, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return host.Decision{}, false
	}
	return bundlelog.Decision(at, text)
}
