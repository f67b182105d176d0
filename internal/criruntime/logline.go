// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"bytes"
	"time"

	"botbottle.dev/bottle-operator/internal/bundlelog"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// maxPart is the length of the longest part of a line that is passed on, as in docker's
	// logs.
	maxPart = 16 << 10
	// maxHeld also has room for the header before the first part.
	maxHeld = maxPart + 128
)

// header is what the runtime writes before each line of a log.
type header struct {
	at      time.Time
	stderr  bool
	partial bool // the line continues in the next one of the same stream
}

// parseHeader splits a line of a CRI log: a time, a stream, tags, and the text.
func parseHeader(line []byte) (h header, text []byte, ok bool) {
	stamp, rest, _ := bytes.Cut(line, []byte{' '})
	stream, rest, _ := bytes.Cut(rest, []byte{' '})
	tags, text, found := bytes.Cut(rest, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil || !found && len(tags) == 0 {
		return header{}, nil, false
	}
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	h = header{at: at, stderr: string(stream) == "stderr", partial: string(tag) == "P"}
	return h, text, h.stderr || string(stream) == "stdout"
}

// logLines divides what is written to it into the lines of a log, and passes them on. It
// holds a bounded part of a line. What is not a line of a CRI log is left out.
type logLines struct {
	line    func(host.BundleLogLine) error
	held    []byte
	current header // of the line that was passed on in part
	inside  bool   // a part of the line was passed on
	skip    bool   // the line is not a line of a CRI log
	stdout  joined
}

// joined is a line of one stream that is put together from its parts, up to the length of a
// decision.
type joined struct {
	text []byte
	long bool
}

func (l *logLines) write(p []byte) error {
	for len(p) > 0 {
		head, tail, ended := bytes.Cut(p, []byte{'\n'})
		if room := maxHeld - len(l.held); len(head) > room {
			head, tail, ended = head[:room], p[room:], false
		}
		l.held, p = append(l.held, head...), tail
		if ended || len(l.held) >= maxHeld {
			if err := l.flush(ended); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush passes on what is held.
func (l *logLines) flush(ended bool) error {
	text := l.held
	if !l.inside && !l.skip {
		var ok bool
		if l.current, text, ok = parseHeader(text); !ok {
			l.skip = true
		}
	}
	l.held, l.inside = l.held[:0], !ended
	if l.skip {
		l.skip = !ended
		return nil
	}
	return l.pass(text, ended)
}

// pass passes text on, in parts of at most maxPart bytes. The last part of a line has the
// decision.
func (l *logLines) pass(text []byte, ended bool) error {
	last := ended && !l.current.partial
	var decision *host.Decision
	if !l.current.stderr {
		l.stdout.add(text)
		if last {
			decision = l.stdout.decision(l.current.at)
		}
	}
	for {
		out := host.BundleLogLine{Time: l.current.at, Stderr: l.current.stderr, Text: text[:min(len(text), maxPart)]}
		text = text[len(out.Text):]
		if out.Partial = len(text) > 0 || !last; !out.Partial {
			out.Decision = decision
		}
		if err := l.line(out); err != nil || len(text) == 0 {
			return err
		}
	}
}

// add adds a part of a line.
func (j *joined) add(text []byte) {
	if len(j.text)+len(text) > bundlelog.MaxLine {
		j.long = true
	} else {
		j.text = append(j.text, text...)
	}
}

// decision returns the decision in the line whose parts were added, or nil, and begins the
// next line.
func (j *joined) decision(at time.Time) *host.Decision {
	defer func() { j.text, j.long = j.text[:0], false }()
	if j.long {
		return nil
	}
	if d, ok := bundlelog.Decision(at, j.text); ok {
		return &d
	}
	return nil
}

// cut drops the part of a line that is held. It is called before another file is read.
func (l *logLines) cut() { l.held, l.inside, l.skip = l.held[:0], false, false }
