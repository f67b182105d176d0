// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"syscall"
	"time"
)

// await waits for the next thing that happens: a time (zero for none), the end of a
// run (nil for none), a signal or a request to stop. It passes signals on to the run,
// ends a run that is to be stopped, and keeps the report file up to date. It may return
// early. ended says that the run has ended, with this status.
func (s *Supervisor) await(until time.Time, r *run) (status syscall.WaitStatus, ended bool) {
	var end <-chan syscall.WaitStatus
	if r != nil {
		end = r.ended
	}
	select {
	case status = <-end:
		return status, true
	case sig := <-s.signals:
		s.pass(sig, r)
	case stop := <-s.stops:
		s.stop(stop, r)
	case <-s.clock.After(s.patience(until, r)):
		if r != nil && !s.killAt.IsZero() && !s.clock.Now().Before(s.killAt) {
			r.signal(syscall.SIGKILL)
			s.killAt = time.Time{}
		}
		s.upkeep()
	}
	return 0, false
}

// patience returns how long to wait when nothing else happens.
func (s *Supervisor) patience(until time.Time, r *run) time.Duration {
	d, now := time.Minute, s.clock.Now()
	if s.dirty || r != nil {
		d = reportEvery
	}
	if !until.IsZero() {
		d = min(d, until.Sub(now))
	}
	if r != nil && !s.killAt.IsZero() {
		d = min(d, s.killAt.Sub(now))
	}
	return max(d, 0)
}

// pass passes a signal on to the run.
func (s *Supervisor) pass(sig os.Signal, r *run) {
	if sig == syscall.SIGTERM {
		s.ending = true
	}
	if number, ok := sig.(syscall.Signal); ok && r != nil {
		r.signal(number)
	}
}

// stop asks the run to end, and to end no later than the request wants.
func (s *Supervisor) stop(stop stopRequest, r *run) {
	s.waiting = append(s.waiting, stop)
	if r != nil && !s.stopped {
		r.signal(syscall.SIGTERM)
	}
	s.stopped = true
	if at := s.clock.Now().Add(stop.grace); s.killAt.IsZero() || at.Before(s.killAt) {
		s.killAt = at
	}
}

// answerStops tells those who asked to stop the workload that it has ended.
func (s *Supervisor) answerStops() {
	for _, stop := range s.waiting {
		close(stop.done)
	}
	s.waiting = nil
}

// changed writes the report. What cannot be written now is tried again by upkeep.
func (s *Supervisor) changed() {
	s.report.LostOutput = s.log.lostBytes()
	err := s.file.write(s.report)
	if s.dirty = err != nil; s.dirty && !s.failed {
		s.failed = true
		s.log.system("the report cannot be written: %v", err)
	}
}

// upkeep writes the report if the last attempt failed or more output has been lost.
func (s *Supervisor) upkeep() {
	if s.dirty || s.report.LostOutput != s.log.lostBytes() {
		s.changed()
	}
}
