// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"botbottle.dev/bottle-operator/internal/host"
)

// maxMoves bounds how often a read begins anew because the newest file has moved. smolvm
// rotates files that are full; the machine's user may do it all the time.
const maxMoves = 16

// lineReader reads lines forwards.
type lineReader struct {
	files *logFiles
	at    position
	end   *position // where to stop; nil at the end of the files
	held  []byte    // the beginning of an unfinished line
	skip  bool      // whether to skip the rest of the line, because its beginning is lost
	// supervised is whether a line of the supervisor was seen. Then it wrote all lines.
	supervised bool
	// discards is whether smolvm has discarded output.
	discards bool
	// moves is how often the newest file has moved since something was read.
	moves int
	// buffer has what was read from the file.
	buffer []byte
}

// read calls emit for each whole line up to the end of the files as they are now. A line
// longer than maxLine comes in parts, of which only the last one is ended.
func (r *lineReader) read(emit func(text []byte, ended bool) error) error {
	if r.buffer == nil {
		r.buffer = make([]byte, chunk)
	}
	for r.at.file < len(r.files.files) && (r.end == nil || r.at.file <= r.end.file) {
		if err := r.passGap(&r.files.files[r.at.file], emit); err != nil {
			return err
		}
		file := r.files.files[r.at.file]
		if err := r.passHole(file, emit); err != nil {
			return err
		}
		n, err := file.ReadAt(r.buffer[:r.room()], r.at.off)
		if file.data(r.at.off) != r.at.off {
			continue // it was freed meanwhile
		}
		if moved, err := r.moved(); err != nil {
			return err
		} else if moved {
			if r.moves++; r.moves > maxMoves {
				r.moves = 0
				return nil // the next call goes on
			}
			continue
		}
		if n > 0 {
			r.moves = 0
		}
		r.at.off += int64(n)
		if lerr := r.split(r.buffer[:n], emit); lerr != nil {
			return lerr
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case n > 0:
		case r.end != nil && r.at.file == r.end.file:
			return nil
		case r.at.file == len(r.files.files)-1:
			return r.restart(file)
		default:
			r.at = position{r.at.file + 1, 0}
		}
	}
	return nil
}

// moved reports whether what was just read may come from another place in the log, because
// the file has been copied and emptied meanwhile.
func (r *lineReader) moved() (bool, error) {
	if r.at.file < len(r.files.files)-1 {
		return false, nil // it does not change any more
	}
	moved, err := r.files.refresh()
	if passed := r.at.file; moved {
		r.files.forget(&r.at)
		if r.end != nil {
			r.end.file -= passed
		}
	}
	return moved, err
}

// room returns how many bytes to read at most.
func (r *lineReader) room() int {
	if r.end == nil || r.at.file < r.end.file {
		return len(r.buffer)
	}
	return int(max(0, min(int64(len(r.buffer)), r.end.off-r.at.off)))
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
	lost := next - r.at.off
	r.at.off, r.held, r.skip = next, r.held[:0], true
	return emitLost(lost, emit)
}

// emitLost emits a system line about bytes of the log that are missing.
func emitLost(n int64, emit func([]byte, bool) error) error {
	return emit(fmt.Appendf(nil, "%s %s F %s%d bytes", zeroTime, system, droppedMark, n), true)
}

// zeroTime stands for an unknown time.
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
		if err := r.line(emit); err != nil {
			return err
		}
	}
	return nil
}

// line emits the line that is held. If smolvm has discarded output near it, line says so in a
// system line, and leaves out fragments of lines that can no longer be read.
func (r *lineReader) line(emit func([]byte, bool) error) error {
	text, lost := r.held, int64(0)
	if r.files.log == host.WorkloadLog {
		text, lost = cutDiscarded(text)
		r.discards = r.discards || lost > 0
	}
	for _, piece := range r.pieces(text) {
		_, ok := parseLine(piece)
		r.supervised = r.supervised || ok && r.files.log == host.WorkloadLog
		if r.supervised && !ok {
			lost += int64(len(piece))
			continue
		}
		if err := emit(piece, true); err != nil {
			return err
		}
	}
	r.held = r.held[:0]
	if lost == 0 {
		return nil
	}
	return emitLost(lost, emit)
}

// headPattern matches the beginning of a line of the supervisor.
var headPattern = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{9}Z (?:stdout|stderr|system) [FP] `)

// pieces separates lines that smolvm has joined by discarding what was between them.
func (r *lineReader) pieces(text []byte) (pieces [][]byte) {
	for r.discards && len(text) > 1 {
		next := headPattern.FindIndex(text[1:])
		if next == nil {
			break
		}
		pieces, text = append(pieces, text[:next[0]+1]), text[next[0]+1:]
	}
	if r.discards && len(text) == 0 {
		return pieces // only a mark was in the line
	}
	return append(pieces, text)
}

// smolvm 1.32.2 discards output that comes faster than it can write it, in the middle of
// lines. It writes this mark, with the number of bytes, and a newline, but not always where
// they are missing.
var discardedBegin, discardedEnd = []byte("[smolvm: "), []byte(" bytes of workload output dropped]")

// cutDiscarded returns a line without the mark that smolvm put at its end, and the number
// of bytes that the mark states. The number is 0 if there is no mark.
func cutDiscarded(line []byte) (text []byte, lost int64) {
	rest, ok := bytes.CutSuffix(line, discardedEnd)
	begin := bytes.LastIndex(rest, discardedBegin)
	if !ok || begin < 0 {
		return line, 0
	}
	n, err := strconv.ParseInt(string(rest[begin+len(discardedBegin):]), 10, 64)
	if err != nil || n <= 0 {
		return line, 0
	}
	return rest[:begin], n
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
