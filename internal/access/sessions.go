// SPDX-License-Identifier: Apache-2.0

package access

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// kind is what a session takes.
type kind int

const (
	command kind = iota // a connection to the guest's agent
	copying             // the same, for a copy of files
	reading             // files of the node only
	kinds               // how many there are
)

const (
	// maxSessions bounds the sessions of a node.
	maxSessions = 2048
	// memory is how long the end of a copy is remembered, which is longer than anybody
	// needs it.
	memory = time.Hour
	// maxReaders bounds the logs of one Bottle that are read at a time, and its proofs
	// on demand.
	maxReaders = 64
)

// Sessions counts the open sessions of the Bottles. The zero value is not usable.
type Sessions struct {
	clock clock.PassiveClock

	mu    sync.Mutex
	open  int
	byUID map[string]*counted
}

// counted is what is known about a Bottle's sessions.
type counted struct {
	open [kinds]int
	last time.Time // when a copy ended last
}

// NewSessions returns Sessions.
func NewSessions(c clock.PassiveClock) *Sessions {
	return &Sessions{clock: c, byUID: map[string]*counted{}}
}

// Commands returns how many commands run in the Bottle's guest for users, copies
// included.
func (s *Sessions) Commands(uid string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byUID[uid]; c != nil {
		return c.open[command] + c.open[copying]
	}
	return 0
}

// Sessions returns how many sessions that copy files are open in the Bottle, and when
// one was last open since the agent started; zero if none was.
func (s *Sessions) Sessions(uid string) (open int, last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byUID[uid]
	switch {
	case c == nil:
		return 0, time.Time{}
	case c.open[copying] > 0:
		return c.open[copying], s.clock.Now()
	}
	return 0, c.last
}

// forget forgets Bottles whose last copy is long over. The caller holds s.mu.
func (s *Sessions) forget() {
	for uid, c := range s.byUID {
		if c.open == [kinds]int{} && s.clock.Since(c.last) > memory {
			delete(s.byUID, uid)
		}
	}
}

// begin counts a session, unless the Bottle has as many as limit allows. Commands and
// copies are counted together. The caller calls end once.
func (s *Sessions) begin(uid string, k kind, limit int) (end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byUID[uid]
	if c == nil {
		c = &counted{}
		s.byUID[uid] = c
	}
	open := c.open[reading]
	if k != reading {
		open = c.open[command] + c.open[copying]
	}
	if open >= limit {
		return nil, errMachineFull
	}
	if s.open >= maxSessions {
		return nil, tooMany("the node serves %d sessions, the most that it can; end another one or try again", maxSessions)
	}
	c.open[k]++
	s.open++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.open[k]--
		s.open--
		if k == copying {
			c.last = s.clock.Now()
		}
		s.forget()
	}, nil
}
