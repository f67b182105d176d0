// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// maxLogLine is the most bytes of a line that is read, docker's time
	// before it included; longer ones are no decisions.
	maxLogLine = 8 << 10
	// maxReason is what is kept of a reason: a rule has room.
	maxReason = 300
)

// FollowDecisions implements host.Bundles.
func (e *Engine) FollowDecisions(ctx context.Context, owner host.Owner, since time.Time, decided func(host.Decision)) error {
	what := fmt.Sprintf("follow the log of docker container %q", owner.ID())
	c, err := e.findBundle(ctx, owner)
	if err == nil {
		err = e.followed(ctx, what, c, e.followLog(ctx, c.ID, since, decided))
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// followed tells the end of a container's run, which is nil, from the loss of
// its log, of which lost may say why.
func (e *Engine) followed(ctx context.Context, what string, before container.InspectResponse, lost error) error {
	now, err := e.findBundle(ctx, ownerOf(before.Config.Labels))
	switch {
	case absent(err):
		return nil
	case err != nil:
		return err
	case now.ID != before.ID, !now.State.Running, now.State.StartedAt != before.State.StartedAt:
		return nil
	case lost == nil:
		lost = errors.New("it ended while the container runs")
	}
	// As a text: that a call was cancelled in here is nobody's end out there.
	return fmt.Errorf("%s: %w: %s", what, host.ErrUnavailable, lost.Error())
}

// followLog reads the log's stream until it ends, which gives no error where
// dockerd ends it in good order.
func (e *Engine) followLog(ctx context.Context, id string, since time.Time, decided func(host.Decision)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := client.ContainerLogsOptions{ShowStdout: true, Follow: true, Timestamps: true}
	if !since.IsZero() {
		options.Since = strconv.FormatInt(since.Unix(), 10) + "." + nanos(since)
	}
	// ContainerLogs returns when docker has answered; the timer bounds that.
	opening := time.AfterFunc(readTimeout, cancel)
	stream, err := e.streams.ContainerLogs(ctx, id, options)
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
	lines := &lines{line: func(line []byte) {
		if d, ok := decisionIn(line); ok {
			decided(d)
		}
	}}
	_, err = stdcopy.StdCopy(lines, io.Discard, stream)
	cancel()
	<-checked
	return err
}

// cancelWhenGone cancels when docker gives no sign of life: a hanging dockerd
// does not close its streams.
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

// lines is a writer that hands on what it is given line by line, and leaves
// out lines that are too long, however they come.
type lines struct {
	line func([]byte)
	held []byte
	long bool // the line that is held is too long
}

// Write implements io.Writer; it gives no error.
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

// decisionIn reads a line of docker's: its time, a space, and what the
// container wrote, of which nothing is believed but that it says so.
func decisionIn(line []byte) (host.Decision, bool) {
	stamp, text, _ := bytes.Cut(line, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return host.Decision{}, false
	}
	var said struct {
		Decision string `json:"decision"`
		Host     string `json:"host"`
		Port     uint16 `json:"port"`
		Reason   string `json:"reason"`
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return host.Decision{}, false
	}
	switch said.Decision {
	case host.VerdictAllow, host.VerdictDeny, host.VerdictFail:
	default:
		return host.Decision{}, false
	}
	return host.Decision{
		Time:    at,
		Verdict: said.Decision,
		Host:    egress.PrintableHost(said.Host),
		Port:    said.Port,
		Reason:  egress.Printable(said.Reason, maxReason),
	}, true
}
