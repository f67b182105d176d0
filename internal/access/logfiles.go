// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	chunk = 64 << 10
	// maxScan bounds how far back in the files of a log a line is looked for. The agent
	// keeps every file far smaller.
	maxScan = 256 << 20
	// droppedMark begins the text of a system line that stands for lost output, which
	// the supervisor or this package writes.
	droppedMark = "dropped "
)

// logFiles are the files of one log of a machine, the oldest first. The machine's user
// may change them at any time.
type logFiles struct {
	open  func(generation int) (host.LogFile, error)
	files []logFile
}

type logFile struct {
	host.LogFile
	info fs.FileInfo // when it was opened
}

// position is a place in the files.
type position struct {
	file int
	off  int64
}

// openLog opens the files that a log has now. It may have none.
func openLog(ctx context.Context, m host.Machines, id string, log host.MachineLog) (*logFiles, error) {
	f := &logFiles{open: func(generation int) (host.LogFile, error) { return m.OpenLog(ctx, id, log, generation) }}
	if err := f.refresh(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// refresh adds the files that are newer than those that are open.
func (f *logFiles) refresh() error {
	var fresh []logFile
	defer func() {
		slices.Reverse(fresh)
		f.files = append(f.files, fresh...)
	}()
	for generation := range host.MaxLogGenerations {
		opened, err := f.open(generation)
		if errors.Is(err, host.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := opened.Stat()
		if err != nil {
			opened.Close()
			return err
		}
		known := func(l logFile) bool { return os.SameFile(l.info, info) }
		if n := len(f.files); n > 0 && known(f.files[n-1]) {
			opened.Close()
			return nil
		}
		if slices.ContainsFunc(fresh, known) { // it was renamed meanwhile
			opened.Close()
			continue
		}
		fresh = append(fresh, logFile{opened, info})
	}
	return nil
}

func (f *logFiles) close() {
	for _, file := range f.files {
		file.Close()
	}
}

// forget closes the files before the position's, which are no longer needed.
func (f *logFiles) forget(p *position) {
	for _, file := range f.files[:p.file] {
		file.Close()
	}
	f.files, p.file = f.files[p.file:], 0
}

// data returns the first offset at or after off at which the file has data, or its end:
// the agent frees the beginning of a file that has become too large, and the machine's
// user may make a file of any size that has no data at all.
func (l logFile) data(off int64) int64 {
	if whole, ok := l.LogFile.(cutFile); ok {
		l.LogFile = whole.LogFile
	}
	file, ok := l.LogFile.(*os.File)
	if !ok {
		return off
	}
	info, err := file.Stat()
	if err != nil || off >= info.Size() {
		return off
	}
	next, err := unix.Seek(int(file.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // there was no data after it
		return info.Size()
	case err != nil:
		return off
	}
	return next
}

// end returns the position after the last byte.
func (f *logFiles) end() (position, error) {
	if len(f.files) == 0 {
		return position{}, nil
	}
	last := len(f.files) - 1
	info, err := f.files[last].Stat()
	if err != nil {
		return position{}, err
	}
	return position{last, info.Size()}, nil
}

// backwards calls visit for each line before end, the last one first, with its position
// and at most its first maxLine bytes, until visit returns false. It passes over the
// freed beginning of a file, and a line that begins there.
func (f *logFiles) backwards(end position, visit func(at position, head []byte) (more bool)) error {
	scanned := int64(0)
	for n := end.file; n >= 0 && len(f.files) > 0; n-- {
		file, to := f.files[n], end.off
		if n != end.file {
			info, err := file.Stat()
			if err != nil {
				return err
			}
			to = info.Size()
		}
		stop, err := file.backwards(to, &scanned, func(off int64, head []byte) bool { return visit(position{n, off}, head) })
		if stop || err != nil {
			return err
		}
	}
	return nil
}

// backwards is logFiles.backwards for the lines of one file before the offset to.
func (l logFile) backwards(to int64, scanned *int64, visit func(off int64, head []byte) bool) (stop bool, err error) {
	begin := l.data(0)
	buffer, head := make([]byte, chunk), make([]byte, maxLine)
	lineEnd := to // of the line whose beginning is looked for
	emit := func(start int64) (bool, error) {
		if start >= to {
			return true, nil // nothing follows the last newline
		}
		n, err := l.ReadAt(head[:min(int64(len(head)), lineEnd-start)], start)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		return visit(start, head[:n]), nil
	}
	for at := to; at > begin; {
		from := max(begin, at-chunk)
		n, err := l.ReadAt(buffer[:at-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if *scanned += int64(n); *scanned > maxScan {
			return true, nil
		}
		for part := buffer[:n]; ; {
			i := bytes.LastIndexByte(part, '\n')
			if i < 0 {
				break
			}
			more, err := emit(from + int64(i) + 1)
			if !more || err != nil {
				return true, err
			}
			lineEnd, part = from+int64(i), part[:i]
		}
		at = from
	}
	if begin > 0 || to == 0 {
		return false, nil
	}
	more, err := emit(0)
	return !more, err
}

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
