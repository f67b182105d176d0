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
	last time.Time // when a command or copy ended last
}

// NewSessions returns Sessions.
func NewSessions(c clock.PassiveClock) *Sessions {
	return &Sessions{clock: c, byUID: map[string]*counted{}}
}

// Commands returns how many commands run in the Bottle's guest for users, copies
// included, and when the last one ended since the agent started; zero if none did.
func (s *Sessions) Commands(uid string) (open int, last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byUID[uid]; c != nil {
		return c.open[command] + c.open[copying], c.last
	}
	return 0, time.Time{}
}

// Copies is like Commands, but counts only commands that copy files. last is of all
// commands.
func (s *Sessions) Copies(uid string) (open int, last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byUID[uid]; c != nil {
		return c.open[copying], c.last
	}
	return 0, time.Time{}
}

// Forget forgets a Bottle that is gone.
func (s *Sessions) Forget(uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.byUID[uid]; c != nil && c.open == [kinds]int{} {
		delete(s.byUID, uid)
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
		if k != reading {
			c.last = s.clock.Now()
		} else if c.open == [kinds]int{} && c.last.IsZero() {
			delete(s.byUID, uid)
		}
	}, nil
}
