// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxQueued is the number of bytes that wait to be written. As many again may be
	// in the write that is under way.
	maxQueued = 1 << 20
	// pieceSize is how many bytes are written at a time.
	pieceSize = 32 << 10
	// flushTimeout is how long flush waits at most.
	flushTimeout = 30 * time.Second
	// stallPatience is how long the workload waits for a log that nobody reads,
	// before output is discarded.
	stallPatience = time.Second
	// logBurst and logRate limit the log: bytes at once, and bytes in a second. The
	// node must have the time to cut off a log that grows too large.
	logBurst = 16 << 20
	logRate  = 4 << 20
	// resumeAt is the number of bytes that must be allowed again before logging
	// resumes, so that the log has a few long gaps instead of many short ones.
	resumeAt = logRate / 4

	// lineOverhead is the length of a line in the log without its text.
	lineOverhead = len("2006-01-02T15:04:05.000000000Z stdout F \n")

	timeFormat = "2006-01-02T15:04:05.000000000Z07:00"
)

// logger writes lines in the format of the Container Runtime Interface, each with its
// time. Its memory is bounded. It discards and counts what comes too fast or is not
// read.
type logger struct {
	clock Clock
	to    io.Writer

	mu      sync.Mutex
	queue   []byte
	content int           // bytes of output in queue
	writing bool          // a write is under way
	room    chan struct{} // closed when the queue has been taken
	work    chan struct{} // capacity 1
	stalled bool          // a wait for room has timed out since then
	credit  float64       // bytes that may be logged now
	counted time.Time     // when credit was last computed
	choked  bool          // output came too fast; logging has not resumed yet
	lost    int64         // bytes of output discarded so far
	written int64         // bytes of the log, so far
	told    int64         // those of them that a line reports
}

func newLogger(clock Clock, to io.Writer) *logger {
	l := &logger{clock: clock, to: to, room: make(chan struct{}), work: make(chan struct{}, 1), credit: logBurst, counted: clock.Now()}
	go l.run()
	return l
}

func (l *logger) run() {
	for range l.work {
		l.mu.Lock()
		batch, content := l.queue, l.content
		l.queue, l.content, l.stalled, l.writing = nil, 0, false, true
		close(l.room)
		l.room = make(chan struct{})
		l.mu.Unlock()
		left := l.write(batch)
		l.mu.Lock()
		l.writing = false
		if len(left) > 0 {
			// How much of it was output is only known for the whole.
			l.lost += int64(content) * int64(len(left)) / int64(len(batch))
		}
		l.mu.Unlock()
	}
}

// write writes a batch in pieces, so that flush sees whether the log is read, and returns
// what could not be written.
func (l *logger) write(batch []byte) (left []byte) {
	for len(batch) > 0 {
		n, err := l.to.Write(batch[:min(len(batch), pieceSize)])
		batch = batch[n:]
		l.mu.Lock()
		l.written += int64(n)
		l.mu.Unlock()
		if err != nil {
			break
		}
	}
	return batch
}

// line logs a piece of output: a line (tag F) or the beginning of one (tag P).
func (l *logger) line(s stream, tag string, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := len(text)
	if tag == "F" {
		size++ // the end of the line
	}
	if !l.admit(len(text) + lineOverhead) {
		l.lost += int64(size)
		return
	}
	l.tellLost()
	l.push(streamNames[s], tag, text)
	l.content += size
}

// admit waits for room, but not longer than stallPatience, and only once until the
// log is read again.
func (l *logger) admit(size int) bool {
	for len(l.queue) > maxQueued {
		if l.stalled {
			return false
		}
		room := l.room
		l.mu.Unlock()
		var late bool
		select {
		case <-room:
		case <-time.After(stallPatience):
			late = true
		}
		l.mu.Lock()
		if late && room == l.room {
			l.stalled = true
		}
	}
	l.earn()
	if l.credit < float64(size) || l.choked && l.credit < resumeAt {
		l.choked = true
		return false
	}
	l.choked = false
	l.credit -= float64(size)
	return true
}

// earn adds what the time since the last call allows.
func (l *logger) earn() {
	now := l.clock.Now()
	l.credit = min(logBurst, l.credit+now.Sub(l.counted).Seconds()*logRate)
	l.counted = now
}

// discard discards output without looking at its lines, if logging has not resumed. A
// flood then costs little.
func (l *logger) discard(size int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.earn(); !l.choked || l.credit >= resumeAt {
		return false
	}
	l.lost += int64(size)
	return true
}

func (l *logger) tellLost() {
	if n := l.lost - l.told; n > 0 {
		l.told = l.lost
		l.push("system", "F", fmt.Appendf(nil, "dropped %d bytes of output", n))
	}
}

// system logs a line about the run. Such lines are few, so they are always accepted.
func (l *logger) system(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellLost()
	l.push("system", "F", fmt.Appendf(nil, format, args...))
}

func (l *logger) push(name, tag string, text []byte) {
	l.queue = l.clock.Now().UTC().AppendFormat(l.queue, timeFormat)
	l.queue = fmt.Appendf(l.queue, " %s %s ", name, tag)
	l.queue = append(append(l.queue, text...), '\n')
	select {
	case l.work <- struct{}{}:
	default:
	}
}

// flush waits until everything has been written, but not longer than flushTimeout, and not
// if nothing has been written for patience: a log that is read slowly is read to its end.
func (l *logger) flush(patience time.Duration) {
	begin, written := time.Now(), int64(-1)
	for last := begin; time.Since(last) < patience && time.Since(begin) < flushTimeout; {
		l.mu.Lock()
		done := len(l.queue) == 0 && !l.writing
		if l.written != written {
			written, last = l.written, time.Now()
		}
		l.mu.Unlock()
		if done {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

// lostBytes returns the number of bytes of output that were discarded.
func (l *logger) lostBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
