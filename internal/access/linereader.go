// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// lineReader reads lines forwards.
type lineReader struct {
	files *logFiles
	at    position
	held  []byte // the beginning of an unfinished line
	skip  bool   // up to the next newline, because the beginning of the line is lost
	lost  int64  // bytes that were freed before they were read
	// buffer has what was read from the file.
	buffer []byte
}

// read calls emit for each whole line up to the end of the files as they are now. A line
// longer than maxLine comes in parts, of which only the last one is ended.
func (r *lineReader) read(emit func(text []byte, ended bool) error) error {
	if r.buffer == nil {
		r.buffer = make([]byte, chunk)
	}
	for r.at.file < len(r.files.files) {
		if err := r.passGap(&r.files.files[r.at.file], emit); err != nil {
			return err
		}
		file := r.files.files[r.at.file]
		if err := r.passHole(file, emit); err != nil {
			return err
		}
		n, err := file.ReadAt(r.buffer, r.at.off)
		if file.data(r.at.off) != r.at.off {
			continue // it was freed meanwhile
		}
		r.at.off += int64(n)
		if lerr := r.split(r.buffer[:n], emit); lerr != nil {
			return lerr
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case n > 0:
		case r.at.file == len(r.files.files)-1:
			return r.restart(file)
		default:
			r.at = position{r.at.file + 1, 0}
		}
	}
	return nil
}

// restart begins again with a file that somebody has emptied.
func (r *lineReader) restart(file logFile) error {
	info, err := file.Stat()
	if err == nil && info.Size() < r.at.off {
		r.at.off, r.held, r.skip = 0, r.held[:0], false
	}
	return err
}

// passGap says in a system line, once, that what was written before a file is missing.
func (r *lineReader) passGap(file *logFile, emit func([]byte, bool) error) error {
	if !file.late || r.at.off != 0 {
		return nil
	}
	file.late = false
	r.held, r.skip = r.held[:0], file.torn
	return emit(fmt.Appendf(nil, "%s %s F %san unknown number of bytes", zeroTime, system, droppedMark), true)
}

// passHole passes over what the agent has freed, and says so in a system line.
func (r *lineReader) passHole(file logFile, emit func([]byte, bool) error) error {
	next := file.data(r.at.off)
	if next == r.at.off {
		return nil
	}
	r.lost, r.at.off = r.lost+next-r.at.off, next
	r.held, r.skip = r.held[:0], true
	return emit(fmt.Appendf(nil, "%s %s F %s%d bytes", zeroTime, system, droppedMark, r.lost), true)
}

// zeroTime is a time that every reader of a log takes for unknown.
const zeroTime = "0001-01-01T00:00:00Z"

func (r *lineReader) split(b []byte, emit func([]byte, bool) error) error {
	for len(b) > 0 {
		head, tail, ended := bytes.Cut(b, []byte{'\n'})
		b = tail
		if r.skip {
			r.skip = !ended
			continue
		}
		for len(r.held)+len(head) > maxLine {
			n := maxLine - len(r.held)
			if err := emit(append(r.held, head[:n]...), false); err != nil {
				return err
			}
			r.held, head = r.held[:0], head[n:]
		}
		r.held = append(r.held, head...)
		if !ended {
			return nil
		}
		err := emit(r.held, true)
		if r.held = r.held[:0]; err != nil {
			return err
		}
	}
	return nil
}

// rest emits the unfinished last line.
func (r *lineReader) rest(emit func([]byte, bool) error) error {
	if len(r.held) == 0 {
		return nil
	}
	err := emit(r.held, true)
	r.held = r.held[:0]
	return err
}
