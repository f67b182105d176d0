// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

// maxLogPart is the length of the longest part of a line that is passed on. Docker's log
// drivers divide lines at the same length.
const maxLogPart = 16 << 10

// ReadLog implements host.Bundles.
func (e *Engine) ReadLog(ctx context.Context, owner host.Owner, req host.BundleLogRequest, line func(host.BundleLogLine) error) error {
	what := fmt.Sprintf("read the log of docker container %q", owner.ID())
	c, err := e.findBundle(ctx, owner)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	options := client.ContainerLogsOptions{
		ShowStdout: true, ShowStderr: true, Timestamps: true,
		Follow: req.Follow, Since: logTime(req.Since), Until: logTime(req.Until),
	}
	if req.Tail >= 0 {
		options.Tail = strconv.FormatInt(req.Tail, 10)
	}
	lines := &logLines{line: line}
	err = e.readStream(ctx, c.ID, options, func(_ context.Context, stream io.Reader) error {
		_, err := stdcopy.StdCopy(frames{lines, false}, frames{lines, true}, stream)
		return err
	})
	switch {
	case lines.failed != nil:
		return lines.failed
	case ctx.Err() != nil:
		return nil
	case req.Follow:
		return e.followResult(ctx, what, c, err)
	case err != nil:
		return fmt.Errorf("%s: %w: %s", what, host.ErrUnavailable, err.Error())
	}
	return nil
}

// logLines passes on what a log has.
type logLines struct {
	line   func(host.BundleLogLine) error
	failed error // what line returned
}

// frames gets the frames of one stream of a log. Each Write is one frame, which is a
// line, or a part of one that has no newline.
type frames struct {
	lines  *logLines
	stderr bool
}

func (f frames) Write(p []byte) (int, error) {
	text, ended := bytes.CutSuffix(p, []byte{'\n'})
	l := host.BundleLogLine{Stderr: f.stderr}
	if ended && len(text) <= maxLogLine && !f.stderr {
		if d, ok := decisionIn(text); ok {
			l.Decision = &d
		}
	}
	stamp, rest, _ := bytes.Cut(text, []byte{' '})
	if at, err := time.Parse(time.RFC3339Nano, string(stamp)); err == nil {
		l.Time, text = at, rest
	}
	for {
		l.Text = text[:min(len(text), maxLogPart)]
		text = text[len(l.Text):]
		l.Partial = !ended || len(text) > 0
		if f.lines.failed = f.lines.line(l); f.lines.failed != nil {
			return 0, f.lines.failed
		}
		if len(text) == 0 {
			return len(p), nil
		}
	}
}
