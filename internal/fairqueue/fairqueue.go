// SPDX-License-Identifier: Apache-2.0

// Package fairqueue shares a fixed number of slots between groups, such as
// namespaces, so that a group with much work does not keep the others waiting.
//
// A slot that becomes free goes to the waiting group that holds the fewest
// slots, and if several hold equally few, to the one whose last turn was longest ago.
// Within a group, tickets are served in the order in which they came. A reserve of slots
// is only for groups that hold none, so that a newcomer does not have to wait for a group
// whose work takes long.
//
// The package does not bound how long a slot is held, nor how many wait: the
// callers do.
package fairqueue

import (
	"maps"
	"slices"
	"sync"
)

// Queue is a number of slots and those who wait for them.
type Queue struct {
	slots, reserve int

	mu     sync.Mutex
	free   int
	groups map[string]*group
	// turn counts the slots that were given so far.
	turn int64
}

// group is kept while it holds a slot or anybody waits, so that it gains nothing
// by leaving the queue and coming back.
type group struct {
	waiting []*Ticket // in the order in which they came
	held    int
	turn    int64 // the turn at which it last got a slot
}

// Ticket is a place in the queue, and later a slot.
type Ticket struct {
	queue *Queue
	ready chan struct{}
	// groups are those for which the ticket waits, until it has its slot. From then on,
	// payer is the group that the slot counts for.
	groups []string
	payer  string
	state  state
}

type state int

const (
	waits state = iota
	holds
	released
)

// New returns a queue with a number of slots, at least one. A group that holds a slot
// gets another only if more than reserve slots are free. The reserve is at most slots-1.
func New(slots, reserve int) *Queue {
	slots = max(1, slots)
	return &Queue{slots: slots, reserve: min(max(0, reserve), slots-1), free: slots, groups: map[string]*group{}}
}

// Slots returns the number of slots.
func (q *Queue) Slots() int { return q.slots }

// Most returns how many slots one group can hold.
func (q *Queue) Most() int { return max(1, q.slots-q.reserve) }

// Enter returns a ticket that waits for all these groups: it gets a slot at the
// turn of any of them, and the slot counts for that group alone. With no groups,
// it waits until WaitFor names some. The caller must release the ticket.
func (q *Queue) Enter(groups ...string) *Ticket {
	t := &Ticket{queue: q, ready: make(chan struct{})}
	q.mu.Lock()
	defer q.mu.Unlock()
	t.enter(groups)
	q.give()
	return t
}

// Ready is closed when the ticket has its slot.
func (t *Ticket) Ready() <-chan struct{} { return t.ready }

// HasSlot reports whether the ticket holds a slot now.
func (t *Ticket) HasSlot() bool {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.state == holds
}

// WaitFor replaces the groups for which the ticket waits. It keeps its place in
// those that it stays in, and comes last in the new ones. It does nothing once the
// ticket has its slot.
func (t *Ticket) WaitFor(groups ...string) {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.state != waits {
		return
	}
	for _, name := range t.groups {
		if !slices.Contains(groups, name) {
			q.remove(name, t)
		}
	}
	t.enter(groups)
	q.give()
	q.forget()
}

// Release gives the slot to the next in the queue, or leaves the queue. It may
// be called more than once.
func (t *Ticket) Release() {
	q := t.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	switch t.state {
	case waits:
		for _, name := range t.groups {
			q.remove(name, t)
		}
	case holds:
		q.free++
		q.groups[t.payer].held--
	case released:
		return
	}
	t.state = released
	q.give()
	q.forget()
}

// enter sets the groups of a ticket, which must have left all others. The caller
// holds the lock.
func (t *Ticket) enter(groups []string) {
	already := t.groups
	t.groups = slices.Compact(slices.Sorted(slices.Values(groups)))
	for _, name := range t.groups {
		if slices.Contains(already, name) {
			continue
		}
		g := t.queue.groups[name]
		if g == nil {
			g = &group{}
			t.queue.groups[name] = g
		}
		g.waiting = append(g.waiting, t)
	}
}

// remove takes the ticket out of a group's line. The caller holds the lock.
func (q *Queue) remove(name string, t *Ticket) {
	g := q.groups[name]
	g.waiting = slices.DeleteFunc(g.waiting, func(w *Ticket) bool { return w == t })
}

// give gives free slots to those who may have them. The caller holds the lock.
func (q *Queue) give() {
	for q.free > 0 {
		name, g := q.next()
		if g == nil || g.held > 0 && q.free <= q.reserve {
			return // if g may not have one, the others may not either: they hold as many or more
		}
		t := g.waiting[0]
		for _, other := range t.groups {
			q.remove(other, t)
		}
		q.free--
		q.turn++
		g.held++
		g.turn = q.turn
		t.payer, t.state = name, holds
		close(t.ready)
	}
}

// next returns the group whose turn it is, nil if nobody waits. The caller holds
// the lock.
func (q *Queue) next() (name string, best *group) {
	for n, g := range q.groups {
		if len(g.waiting) > 0 && (best == nil || before(g, n, best, name)) {
			name, best = n, g
		}
	}
	return name, best
}

// before reports whether group a is served before group b.
func before(a *group, nameA string, b *group, nameB string) bool {
	switch {
	case a.held != b.held:
		return a.held < b.held
	case a.turn != b.turn:
		return a.turn < b.turn
	}
	return nameA < nameB
}

// forget drops the groups that hold no slot if nobody waits: their last turn no
// longer matters then. The caller holds the lock.
func (q *Queue) forget() {
	for _, g := range q.groups {
		if len(g.waiting) > 0 {
			return
		}
	}
	maps.DeleteFunc(q.groups, func(_ string, g *group) bool { return g.held == 0 })
}
