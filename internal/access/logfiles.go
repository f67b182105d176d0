// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"context"
	"errors"
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
// may change them at any time. smolvm begins a new file in the middle of a line.
type logFiles struct {
	log   host.MachineLog
	open  func(generation int) (host.LogFile, error)
	files []logFile
	// older is the generation before the newest file, when it was last looked for; nil if
	// there was none.
	older fs.FileInfo
}

type logFile struct {
	host.LogFile
	info fs.FileInfo // when it was opened
	// late: smolvm had removed the file before this one when it was looked for.
	late bool
	// torn: the file is late, and its first line began in the file before it.
	torn bool
}

// position is a place in the files.
type position struct {
	file int
	off  int64
}

// openLog opens the files that a log has now. It may have none.
func openLog(ctx context.Context, m host.Machines, id string, log host.MachineLog) (*logFiles, error) {
	f := &logFiles{log: log, open: func(generation int) (host.LogFile, error) { return m.OpenLog(ctx, id, log, generation) }}
	if _, err := f.refresh(); err != nil {
		f.close()
		return nil, err
	}
	if n := len(f.files); n > 1 && isCopy(f.files[n-2], f.files[n-1]) {
		f.files[n-2].Close()
		f.files = slices.Delete(f.files, n-2, n-1)
		f.remember()
	}
	return f, nil
}

// refresh adds the files that are newer than those that are open. moved means that what was
// the newest file has been copied and emptied. In files, the copy has taken its place.
func (f *logFiles) refresh() (moved bool, err error) {
	if moved, err = f.followCopies(); moved || err != nil {
		return moved, err
	}
	fresh, joined, err := f.newer()
	if n := len(fresh); n > 1 && !joined && f.log == host.WorkloadLog {
		oldest := &fresh[n-1]
		oldest.torn = !oldest.beginsLine()
		oldest.late = oldest.torn || len(f.files) > 0
	}
	slices.Reverse(fresh)
	f.files = append(f.files, fresh...)
	if len(fresh) > 0 {
		f.remember()
	}
	return false, err
}

func (f *logFiles) remember() {
	if n := len(f.files); n > 1 {
		f.older = f.files[n-2].info
	} else {
		f.older = nil
	}
}

// newer opens the files that are newer than those that are open, the newest first.
// joined means that nothing is missing between them and those that are open.
func (f *logFiles) newer() (fresh []logFile, joined bool, err error) {
	for generation := range host.MaxLogGenerations {
		opened, err := f.open(generation)
		if errors.Is(err, host.ErrNotFound) {
			break
		}
		if err != nil {
			return fresh, false, err
		}
		info, err := opened.Stat()
		if err != nil {
			opened.Close()
			return fresh, false, err
		}
		known := func(l logFile) bool { return os.SameFile(l.info, info) }
		if n := len(f.files); n > 0 && known(f.files[n-1]) {
			opened.Close()
			return fresh, true, nil
		}
		if slices.ContainsFunc(fresh, known) { // it was renamed meanwhile
			opened.Close()
			continue
		}
		fresh = append(fresh, logFile{LogFile: opened, info: info})
	}
	return fresh, false, nil
}

// beginsLine reports whether the file begins with a line of the supervisor, and not with
// the rest of one.
func (l logFile) beginsLine() bool {
	head := make([]byte, maxLine)
	n, err := l.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	first, _, _ := bytes.Cut(head[:n], []byte{'\n'})
	_, ok := parseLine(first)
	return ok
}

// endsLine reports whether the last line of the file does not go on in the next one.
func (l logFile) endsLine() bool {
	info, err := l.Stat()
	if err != nil || info.Size() == 0 {
		return true
	}
	last := make([]byte, 1)
	_, err = l.ReadAt(last, info.Size()-1)
	return err != nil || last[0] == '\n'
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
		stop, err := file.backwards(to, &scanned, func(off int64, head []byte) bool {
			if off == 0 && n > 0 && !file.late && !f.files[n-1].endsLine() {
				return true // the line begins in the file before
			}
			return visit(position{n, off}, head)
		})
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
