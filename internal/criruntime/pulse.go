// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"sync"
	"time"
)

// pulse tells a runtime that is being restarted from one that is down.
type pulse struct {
	mu    sync.Mutex
	heard time.Time // when the last answer came; zero if there was none yet
	// since is when the first call without an answer after heard began; zero if every call
	// was answered. On an idle node it is long after heard, because nobody calls.
	since time.Time
	// asking: while the runtime is silent, a call waits for its answer.
	asking bool
}

// admit reports whether a call may be made now. While the runtime has been silent for
// patience, that is one call at a time; the others must fail at once. The passes of all
// Bottles share a few workers, and those that need no answer would wait for those that do.
func (p *pulse) admit(patience time.Duration) (release func(), admitted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() || p.silent() < patience {
		return func() {}, true
	}
	if p.asking {
		return nil, false
	}
	p.asking = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asking = false
	}, true
}

// answered records an answer, even one that is an error.
func (p *pulse) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard, p.since = time.Now(), time.Time{}
}

// unanswered records that a call which began at a time got no answer. It returns for how long
// the runtime has been silent.
func (p *pulse) unanswered(began time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() && began.After(p.heard) {
		p.since = began
	}
	return p.silent()
}

// silent returns for how long the runtime has been silent. The caller holds p.mu.
func (p *pulse) silent() time.Duration {
	if p.since.IsZero() {
		return 0
	}
	return time.Since(p.since)
}

// answeredAfter reports whether there was an answer after t.
func (p *pulse) answeredAfter(t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.heard.After(t)
}

// restarting reports whether the runtime has answered and has been silent for only a short
// time, which may be that of a restart.
func (r *Runtime) restarting() bool {
	r.pulse.mu.Lock()
	defer r.pulse.mu.Unlock()
	return !r.pulse.heard.IsZero() && r.pulse.silent() < r.silence
}
