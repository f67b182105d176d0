// SPDX-License-Identifier: Apache-2.0

package supervisor

import "bytes"

// maxLine is the maximum length of a logged line in bytes, without its time and tags.
// Longer lines are logged in parts.
const maxLine = 16 << 10

// lines splits one stream into lines.
type lines struct {
	stream  stream
	log     *logger
	pending []byte // the beginning of a line, shorter than maxLine
}

// write logs the lines that are complete.
func (l *lines) write(data []byte) {
	if l.log.discard(len(l.pending) + len(data)) {
		l.pending = l.pending[:0]
		return
	}
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		part := data
		if end >= 0 {
			part = data[:end]
		}
		part = part[:min(len(part), maxLine-len(l.pending))]
		data = data[len(part):]
		l.pending = append(l.pending, part...)
		switch {
		case len(data) > 0 && data[0] == '\n':
			data = data[1:]
			l.log.line(l.stream, "F", l.pending)
			l.pending = l.pending[:0]
		case len(l.pending) == maxLine:
			l.flush()
		}
	}
}

// flush logs the beginning of a line that is not complete yet.
func (l *lines) flush() {
	if len(l.pending) > 0 {
		l.log.line(l.stream, "P", l.pending)
		l.pending = l.pending[:0]
	}
}
