// SPDX-License-Identifier: Apache-2.0

package fairqueue

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serve releases the ticket that holds a slot and came first, until none holds
// one, and returns the groups that paid, in the order in which they were served.
func serve(tickets []*Ticket) string {
	var out []string
	for again := true; again; {
		again = false
		for _, t := range tickets {
			if t.HasSlot() {
				out = append(out, t.payer)
				t.Release()
				again = true
				break
			}
		}
	}
	return strings.Join(out, " ")
}

func enter(q *Queue, groups string) (out []*Ticket) {
	for g := range strings.FieldsSeq(groups) {
		out = append(out, q.Enter(strings.Split(g, "+")...))
	}
	return out
}

func held(tickets []*Ticket) string {
	var out []string
	for _, t := range tickets {
		if t.HasSlot() {
			out = append(out, t.payer)
		}
	}
	return strings.Join(out, " ")
}

// A group that came first with much work does not keep the others waiting.
func TestTurns(t *testing.T) {
	for name, tt := range map[string]struct {
		groups string
		want   string
	}{
		"one group, in order":           {"a a a", "a a a"},
		"by turns":                      {"a a a a b b c", "a b c a b a a"},
		"a newcomer comes next":         {"a a a a a a b", "a b a a a a a"},
		"a shared ticket serves both":   {"a a a a+b c", "a b c a a"},
		"it counts for one group alone": {"a a a a+b b", "a b a b a"},
		"the empty name is a group too": {"+ + + b", " b  "},
	} {
		t.Run(name, func(t *testing.T) {
			if got := serve(enter(New(1, 0), tt.groups)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// The slots that are free when a group comes are not all given to it.
func TestReserve(t *testing.T) {
	for name, tt := range map[string]struct {
		slots, reserve int
		groups         string
		want           string
	}{
		"one slot has no reserve":         {1, 1, "a a", "a"},
		"one group leaves the reserve":    {3, 1, "a a a a", "a a"},
		"which a newcomer gets":           {3, 1, "a a a a b b", "a a b"},
		"and more of them":                {16, 4, strings.Repeat("a ", 20) + "b b c d e", strings.TrimSpace(strings.Repeat("a ", 12)) + " b c d e"},
		"without a reserve":               {3, 0, "a a a a b", "a a a"},
		"a group that holds none, no max": {3, 9, "a a b c d", "a b c"},
	} {
		t.Run(name, func(t *testing.T) {
			q := New(tt.slots, tt.reserve)
			tickets := enter(q, tt.groups)
			if got := held(tickets); got != tt.want {
				t.Errorf("got slots held by %q, want %q", got, tt.want)
			}
			if n := len(strings.Fields(serve(tickets))); n != len(tickets) {
				t.Errorf("got %d served, want all %d", n, len(tickets))
			}
		})
	}
	if q := New(3, 1); q.Slots() != 3 || q.Most() != 2 {
		t.Errorf("got %d slots and at most %d, want 3 and 2", q.Slots(), q.Most())
	}
}

// A group that holds slots for long comes after one that holds fewer, however
// often that one comes.
func TestFewestHeldFirst(t *testing.T) {
	q := New(3, 0)
	long := enter(q, "a a")
	var order []string
	waiting := enter(q, "b a b")
	for range 2 {
		for i, w := range waiting {
			if w.HasSlot() {
				order = append(order, w.payer)
				w.Release()
				waiting = append(waiting[:i:i], waiting[i+1:]...)
				break
			}
		}
	}
	if got := strings.Join(order, " "); got != "b b" {
		t.Errorf("got %q, want the group that holds none first", got)
	}
	for _, l := range long {
		l.Release()
	}
	if !waiting[0].HasSlot() {
		t.Error("got nothing for the other group in the end, want its slot")
	}
}

func TestLeaving(t *testing.T) {
	q := New(1, 0)
	tickets := enter(q, "a a+b a b")
	tickets[1].WaitFor("c", "b") // the Bottles of a left it, one of c came
	tickets[2].Release()
	tickets[2].Release() // a second time
	tickets[0].WaitFor("z")
	if got := serve(tickets); got != "a b b" {
		t.Errorf("got %q, want the one that left skipped", got)
	}
	if q.free != 1 || len(q.groups) != 0 {
		t.Errorf("got %d free and groups %v, want one and none", q.free, q.groups)
	}
	nobody := q.Enter()
	if nobody.HasSlot() {
		t.Error("for no group: got a slot, want none")
	}
	nobody.WaitFor("a")
	if !nobody.HasSlot() {
		t.Error("for a group that came later: got no slot, want one")
	}
}

// A group gains nothing by leaving the queue and coming back.
func TestComingBack(t *testing.T) {
	q := New(1, 0)
	tickets := enter(q, "a b b")
	tickets[0].Release()
	tickets = append(tickets, q.Enter("a"))
	tickets[1].Release() // b's slot
	if got := held(tickets); got != "a" {
		t.Fatalf("got %q served, want a, whose turn was longer ago", got)
	}
	tickets[3].Release()
	tickets = append(tickets, q.Enter("a"))
	if got := held(tickets); got != "b" {
		t.Errorf("got %q served, want b", got)
	}
}

// However slots are taken, given up and abandoned, there are never more than
// the queue has, and none is lost.
func TestConcurrently(t *testing.T) {
	const slots = 3
	q := New(slots, 1)
	var inside, most atomic.Int64
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			ticket := q.Enter(fmt.Sprint(i % 7))
			defer ticket.Release()
			if random.IntN(3) == 0 {
				ticket.WaitFor(fmt.Sprint(i%7), fmt.Sprint(i%5))
			}
			select {
			case <-ticket.Ready():
			case <-time.After(time.Duration(random.IntN(20)) * time.Millisecond):
				return
			}
			n := inside.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond)
			inside.Add(-1)
		})
	}
	all.Wait()
	if most.Load() > slots || q.free != slots || len(q.groups) != 0 {
		t.Errorf("got %d inside, %d free, groups %v; want at most %d, all, none", most.Load(), q.free, q.groups, slots)
	}
}
