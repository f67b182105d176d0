// SPDX-License-Identifier: Apache-2.0

package image

import (
	"sync"
	"time"
)

// limit ends work that takes too long. The time while it is paused does not count,
// except for what resume is told. It uses real time, as the timeouts of connections do.
type limit struct {
	end func()

	mu     sync.Mutex
	timer  *time.Timer
	since  time.Time
	left   time.Duration // at the time since
	paused bool
	over   bool // the work took too long
	ended  bool // stop was called
}

// newLimit calls end when the work has taken longer than d.
func newLimit(d time.Duration, end func()) *limit {
	l := &limit{end: end, left: d, since: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(d, l.expire)
	return l
}

func (l *limit) expire() {
	l.mu.Lock()
	over := !l.paused && !l.ended && l.left <= time.Since(l.since)
	l.over = l.over || over
	l.mu.Unlock()
	if over {
		l.end()
	}
}

func (l *limit) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused || l.ended {
		return
	}
	l.paused = true
	l.timer.Stop()
	l.left -= time.Since(l.since)
}

// resume ends a pause. spent is the part of the pause that counts.
func (l *limit) resume(spent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.paused || l.ended {
		return
	}
	l.paused = false
	l.left -= spent
	l.since = time.Now()
	l.timer.Reset(max(0, l.left))
}

// remaining returns how long the work may still take.
func (l *limit) remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused {
		return l.left
	}
	return l.left - time.Since(l.since)
}

func (l *limit) exceeded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// stop ends the limit: the work is done.
func (l *limit) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.timer.Stop()
}
