// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// keptCopies is how many older files smolvm keeps of a log.
	keptCopies = 3
	// sameHead is how many bytes at the beginning of two files tell them apart: the lines
	// of a log begin with their times.
	sameHead = 256
)

// smolvm 1.32.2 rotates a log by copying: it copies workload.log to a new file
// workload.log.1, after renaming the older ones, and then empties workload.log. So a
// rotation shows as a new file in generation 1, and what a reader has not yet read of
// workload.log is at the same offset of the copy.

// followCopies looks for rotations since the last look. If there were any, it puts the copy
// in the place of the file that was the newest one, and adds what is newer.
func (f *logFiles) followCopies() (moved bool, err error) {
	n := len(f.files)
	if n == 0 {
		return false, nil
	}
	current := &f.files[n-1]
	if newest, err := f.opened(0); err != nil || !os.SameFile(newest.info, current.info) {
		newest.close()
		return false, ignoreNotFound(err) // smolvm has begun another file
	} else {
		newest.close()
	}
	fresh, joined, err := f.copies()
	if err != nil || len(fresh) == 0 || isCopy(fresh[0], *current) {
		for _, file := range fresh {
			file.Close()
		}
		return false, err
	}
	f.older = fresh[0].info
	slices.Reverse(fresh)
	again := *current
	again.late, again.torn = false, false
	if joined {
		current.LogFile, current.info = fresh[0].LogFile, fresh[0].info
		fresh = fresh[1:]
	} else {
		current.LogFile = goneFile{current.LogFile}
		fresh[0].late, fresh[0].torn = true, !fresh[0].beginsLine()
	}
	f.files = append(append(f.files, fresh...), again)
	return true, nil
}

// copies opens the older files that are newer than f.older, the newest first. joined means
// that nothing is missing between them and the file that was the newest one.
func (f *logFiles) copies() (fresh []logFile, joined bool, err error) {
	for generation := 1; generation < host.MaxLogGenerations; generation++ {
		file, err := f.opened(generation)
		if errors.Is(err, host.ErrNotFound) {
			return fresh, f.older == nil && len(fresh) < keptCopies, nil
		}
		if err != nil {
			return fresh, false, err
		}
		if f.older != nil && os.SameFile(f.older, file.info) {
			file.Close()
			return fresh, true, nil
		}
		fresh = append(fresh, file)
	}
	return fresh, false, nil
}

func (f *logFiles) opened(generation int) (logFile, error) {
	file, err := f.open(generation)
	if err != nil {
		return logFile{}, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return logFile{}, err
	}
	return logFile{LogFile: file, info: info}, nil
}

func (l logFile) close() {
	if l.LogFile != nil {
		l.Close()
	}
}

// isCopy reports whether older is a copy of newest that smolvm is making or has just made:
// newest has not been emptied yet.
func isCopy(older, newest logFile) bool {
	from, err := newest.Stat()
	to, terr := older.Stat()
	if err != nil || terr != nil || from.Size() == 0 || from.Size() < to.Size() {
		return false
	}
	return bytes.Equal(older.head(to.Size()), newest.head(to.Size()))
}

// head returns the beginning of a file, at most size bytes of it.
func (l logFile) head(size int64) []byte {
	head := make([]byte, min(size, sameHead))
	n, _ := l.ReadAt(head, 0)
	return head[:n]
}

// goneFile is a file whose contents are lost.
type goneFile struct{ host.LogFile }

// ReadAt implements io.ReaderAt.
func (goneFile) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

// Close implements io.Closer. The file itself is still in use.
func (goneFile) Close() error { return nil }
