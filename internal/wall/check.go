// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// check is one reading of many walls, which reads only what may have changed.
type check struct {
	*memory
	now    time.Time
	specs  []host.WallSpec
	socket *linkSocket
	rules  *ruleset
	links  map[string]*attrs
}

// readMany is like read, for many walls. The packet counts that it returns may be
// as old as fullReading.
func (w *Walls) readMany(ctx context.Context, specs []host.WallSpec) ([]host.Wall, error) {
	m := &w.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.buf == nil {
		m.buf, m.walls = make([]byte, linkRoom), map[string]*kept{}
	}
	c := &check{memory: m, now: m.now(), specs: specs}
	m.drainEvents(c.now) // first: what is read afterwards shows what they report
	m.inspected.drain(func(id string) { delete(m.walls, id) })
	m.forgetOthers(specs)
	var err error
	if c.socket, err = openLinkSocket(m.buf); err != nil {
		return nil, err
	}
	defer c.socket.close()
	if c.links, err = m.links.list(c.socket); err != nil {
		return nil, err
	}
	if c.rules, err = openRuleset(); err != nil {
		return nil, err
	}
	defer c.rules.close()
	if err := m.readTables(c.rules, c.now); err != nil {
		return nil, err
	}
	return c.read(ctx, w)
}

// forgetOthers forgets the walls that are no longer checked.
func (m *memory) forgetOthers(specs []host.WallSpec) {
	if len(m.walls) <= len(specs) {
		return
	}
	wanted := make(map[string]bool, len(specs))
	for _, s := range specs {
		wanted[s.Owner.ID()] = true
	}
	for id := range m.walls {
		if !wanted[id] {
			delete(m.walls, id)
		}
	}
}

func (c *check) read(ctx context.Context, w *Walls) ([]host.Wall, error) {
	walls := make([]host.Wall, len(c.specs))
	var unknown []int // the walls whose inside must be read
	var found []facts
	for i, s := range c.specs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		want, err := w.expect(s)
		if err != nil {
			return nil, err
		}
		k := c.walls[s.Owner.ID()]
		if !c.knows(k, c.socket, s, c.now) {
			unknown = append(unknown, i)
			found = append(found, facts{path: w.path(s.Owner)})
			continue
		}
		if c.unchanged(k, s, want) {
			walls[i] = k.wall
			continue
		}
		walls[i] = c.judge(s, want, k.facts, k.insideAt)
	}
	if err := w.observeInside(ctx, found); err != nil {
		return nil, err
	}
	for n, i := range unknown {
		want, err := w.expect(c.specs[i])
		if err != nil {
			return nil, err
		}
		walls[i] = c.judge(c.specs[i], want, found[n], c.now)
	}
	return walls, nil
}

// unchanged reports whether a wall with a known inside is as it was judged.
func (c *check) unchanged(k *kept, s host.WallSpec, want *expected) bool {
	return k.want == want && k.spec.Subnet == s.Subnet && settled(k.rulesAt, c.rulesChanged) &&
		k.facts.bundleEnd == c.links[s.Owner.Veth()] && k.facts.bridge == c.links[s.Owner.Bridge()]
}

// judge judges a wall with this inside, which was read at insideAt, and keeps it
// if it has no faults. It reads the rules.
func (c *check) judge(s host.WallSpec, want *expected, f facts, insideAt time.Time) host.Wall {
	id, table := s.Owner.ID(), tableName(s.Owner)
	f.bundleEnd, f.bridge = c.links[s.Owner.Veth()], c.links[s.Owner.Bridge()]
	f.bridges = c.bridges
	f.filter = filterFacts{table: c.tables[table], earlier: c.hooks[s.Owner.Veth()].before(table)}
	if f.filter.table != nil {
		f.filter.rules, f.filter.err = c.rules.rules(table)
	}
	wall := wallOf(s, want, f)
	if wall.Err != nil || len(wall.Faults) > 0 {
		delete(c.walls, id)
		return wall
	}
	changed := c.now // the inside of a wall that was not known may be changing
	if k := c.walls[id]; k != nil {
		changed = k.insideChanged
	}
	f.filter = filterFacts{} // it is large, and read again before it is needed
	c.walls[id] = &kept{spec: s, want: want, facts: f, wall: wall, insideAt: insideAt, insideChanged: changed, rulesAt: c.now}
	return wall
}
