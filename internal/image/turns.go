// SPDX-License-Identifier: Apache-2.0

package image

import (
	"slices"

	"botbottle.dev/bottle-operator/internal/fairqueue"
)

// newSlots returns slots that namespaces share by turns. A quarter of them, and
// at least one, is only for namespaces that hold none: a pull from a slow
// registry can last for half an hour.
func newSlots(n int) *fairqueue.Queue { return fairqueue.New(n, max(1, n/4)) }

// namespaces returns the namespaces of the Bottles that wait for the job. "" is
// the node's own, for a prewarm. The caller holds the lock.
func (s *ledger) namespaces(j *job) (out []string) {
	if j.kept {
		out = append(out, "")
	}
	for uid := range j.waiters {
		if name := s.requesters[uid].namespace; !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// namespacesOf returns the namespaces of all Bottles that wait for the fetch. It
// gets its slot at the turn of any of them, and the slot counts for that
// namespace alone, even if its Bottles leave: so a namespace never waits longer
// because another wants the same image. The caller holds the lock.
func (s *ledger) namespacesOf(f *fetch) (out []string) {
	for _, j := range s.jobs {
		if j.fetch == f {
			out = append(out, s.namespaces(j)...)
		}
	}
	return out
}

// waitersChanged updates whose turns the job and its fetch wait for. The caller
// holds the lock.
func (s *ledger) waitersChanged(j *job) {
	if j.place != nil {
		j.place.WaitFor(s.namespaces(j)...)
	}
	if f := j.fetch; f != nil {
		f.place.WaitFor(s.namespacesOf(f)...)
	}
}

// enterResolving puts the job into the queue for a resolve slot. The caller
// releases the place.
func (s *resolver) enterResolving(j *job) *fairqueue.Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.place = s.resolveSlots.Enter(s.namespaces(j)...)
	return j.place
}
