// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"errors"
	"io"
	"time"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

const (
	// maxPart is the length of the longest part of a line's text.
	maxPart = 16 << 10
	// maxLine is the length of the longest line of a file that is read as one: a part
	// with a time, a stream and a tag before it. A longer one is not the supervisor's.
	maxLine = maxPart + 64
)

// The streams of lines. Lines of the supervisor itself are on the stream system.
const (
	stdout = "stdout"
	stderr = "stderr"
	system = "system"
)

// line is one line of a log, or a part of one.
type line struct {
	time    time.Time
	stream  string
	partial bool // the line goes on in the next one of the stream
	text    []byte
}

// parseLine reads a line in the format that kubelet keeps logs in: TIME STREAM TAG TEXT.
// ok is false if it has another form.
func parseLine(b []byte) (l line, ok bool) {
	stamp, rest, _ := bytes.Cut(b, []byte{' '})
	stream, rest, _ := bytes.Cut(rest, []byte{' '})
	tag, text, tagged := bytes.Cut(rest, []byte{' '})
	if !tagged || len(stamp) > 40 {
		return line{}, false
	}
	switch string(stream) {
	case stdout, stderr, system:
	default:
		return line{}, false
	}
	if string(tag) != "F" && string(tag) != "P" {
		return line{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return line{}, false
	}
	return line{time: at, stream: string(stream), partial: string(tag) == "P", text: text}, true
}

// Marks of the supervisor.
var (
	markRun = []byte("run ")
)

// beginsRun reports whether the line marks the beginning of a run of the workload.
func (l line) beginsRun() bool { return l.stream == system && bytes.HasPrefix(l.text, markRun) }

// errLimit means that limitBytes have been written.
var errLimit = errors.New("the limit of the log is reached")

// lineWriter writes lines to a client.
type lineWriter struct {
	w          io.Writer
	format     subresources.LogFormat
	timestamps bool
	left       int64 // bytes that may still be written; negative is no limit
	since      time.Time
	// open is the stream of the partial line that was written last; "" at the beginning
	// of a line.
	open   string
	buffer []byte
}

// write writes a line, unless it is too old or the supervisor's own.
func (w *lineWriter) write(l line) error {
	if l.time.Before(w.since) && !l.time.IsZero() {
		return nil
	}
	if w.format == subresources.LogCRI {
		return w.writeCRI(l)
	}
	if l.stream == system {
		return nil
	}
	w.buffer = w.buffer[:0]
	if w.open != "" && w.open != l.stream {
		w.buffer, w.open = append(w.buffer, '\n'), "" // the other stream's line ends elsewhere
	}
	if w.timestamps && w.open == "" && !l.time.IsZero() {
		w.buffer = append(l.time.UTC().AppendFormat(w.buffer, time.RFC3339Nano), ' ')
	}
	w.buffer = append(w.buffer, l.text...)
	w.open = l.stream
	if !l.partial {
		w.buffer, w.open = append(w.buffer, '\n'), ""
	}
	return w.flush()
}

func (w *lineWriter) writeCRI(l line) error {
	if l.stream == system && !bytes.HasPrefix(l.text, []byte(droppedMark)) {
		return nil
	}
	if l.time.IsZero() {
		l.time = time.Now()
	}
	w.buffer = append(l.time.UTC().AppendFormat(w.buffer[:0], time.RFC3339Nano), ' ')
	w.buffer = append(append(w.buffer, l.stream...), " F "...)
	if l.partial {
		w.buffer[len(w.buffer)-2] = 'P'
	}
	w.buffer = append(append(w.buffer, l.text...), '\n')
	return w.flush()
}

func (w *lineWriter) flush() error {
	if w.left >= 0 && int64(len(w.buffer)) >= w.left {
		_, err := w.w.Write(w.buffer[:w.left])
		w.left = 0
		return errors.Join(errLimit, err)
	}
	n, err := w.w.Write(w.buffer)
	if w.left >= 0 {
		w.left -= int64(n)
	}
	return err
}
