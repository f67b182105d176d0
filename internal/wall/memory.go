// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"hash/fnv"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// memory keeps what was read of walls without faults, for as long as the kernel
// says that nothing has changed:
//
//   - the tables, chains and rules, while the generation of the node's ruleset is
//     the same and no link of the node came or went (some kernels drop a chain
//     with its device);
//   - the inside of a namespace, while there is no notification about it.
//
// The node's links, the file of each namespace and the mark of each loopback are
// read each time. See events for the reason. A wall with faults is never kept.
// Whatever cannot be known is read again.
type memory struct {
	mu sync.Mutex // held during a check of many walls

	events *events // nil while notifications cannot be received
	links  linkTable
	walls  map[string]*kept // by the owner's ID
	buf    []byte
	now    func() time.Time

	// The tables as read at tablesAt, and their generation.
	tables   map[string]*table
	hooks    map[string]hooks
	bridges  string // what is wrong with the bridges' table
	tablesAt time.Time
	// owned means that a table disappears with a process, which does not change
	// the generation: the tables must be read each time.
	owned        bool
	generation   uint32
	linksChanged time.Time // when a link of the node last changed
	rulesChanged time.Time // when the generation or the tables last changed

	inspected inspections
}

// inspections are the walls that were inspected in another way than by a check of many,
// whose counts are older than what was returned.
type inspections struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (n *inspections) mark(specs []host.WallSpec) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ids == nil || len(n.ids) > maxExpected {
		n.ids = map[string]bool{}
	}
	for _, s := range specs {
		n.ids[s.Owner.ID()] = true
	}
}

// drain calls f for each of them and empties the list.
func (n *inspections) drain(f func(id string)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.ids {
		f(id)
	}
	clear(n.ids)
}

// kept is what is known of one wall.
type kept struct {
	spec  host.WallSpec
	want  *expected
	facts facts
	wall  host.Wall

	insideAt      time.Time // when the inside was read
	insideChanged time.Time // the last notification about it
	rulesAt       time.Time // when the rules were read
}

const (
	// settling is how long a change may take to become visible after its
	// notification. Until then, what it concerns is read each time.
	settling = 500 * time.Millisecond
	// fullReading is how often everything is read, whether or not it changed: in
	// case of a change without a notification, and for the packet counts.
	fullReading = 30 * time.Second
)

// settled reports whether what was read at a time shows a change.
func settled(read, change time.Time) bool { return read.Sub(change) >= settling }

// due reports whether the time has come to read everything of a wall again. The
// time depends on the wall, so that not all of them are read at once.
func due(id string, last, now time.Time) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	phase := time.Duration(h.Sum32()) * time.Microsecond % fullReading
	turn := func(t time.Time) int64 { return int64((time.Duration(t.UnixNano()) + phase) / fullReading) }
	return turn(last) != turn(now) || now.Sub(last) >= fullReading
}

// drainEvents marks what has changed since the last check. Without notifications,
// everything counts as changed.
func (m *memory) drainEvents(now time.Time) {
	if m.events == nil {
		// Subscribe before anything is read.
		m.events, _ = openEvents()
		m.forgetAll(now)
		return
	}
	c, err := m.events.read()
	if err != nil {
		m.events.close()
		m.events = nil
	}
	if err != nil || c.all {
		m.forgetAll(now)
		return
	}
	if c.links {
		m.linksChanged = now
	}
	if len(c.insides) == 0 {
		return
	}
	for _, k := range m.walls {
		if c.insides[k.facts.inside.peersNS] {
			k.insideChanged = now
		}
	}
}

func (m *memory) forgetAll(now time.Time) {
	clear(m.walls)
	m.tables, m.linksChanged, m.rulesChanged = nil, now, now
}

// readTables reads the tables unless they are still the same.
func (m *memory) readTables(rs *ruleset, now time.Time) error {
	generation, err := rs.generation()
	if err != nil || generation != m.generation {
		m.rulesChanged = now
	}
	m.generation = generation
	if m.tables != nil && !m.owned && now.Sub(m.tablesAt) < fullReading &&
		settled(m.tablesAt, m.rulesChanged) && settled(m.tablesAt, m.linksChanged) {
		return nil
	}
	tables, err := rs.tables()
	if err != nil {
		m.tables = nil
		return err
	}
	bridges, err := bridgesHooks.fault()
	if err != nil {
		m.tables = nil
		return err
	}
	if bridges != m.bridges || !reflect.DeepEqual(tables, m.tables) {
		m.tables, m.hooks, m.bridges, m.rulesChanged = tables, hooksOf(tables), bridges, now
	}
	m.tablesAt = now
	m.owned = false
	for _, t := range tables {
		m.owned = m.owned || t.owned
	}
	return nil
}

// knows reports whether the inside of a wall's namespace is as it was when it was
// read.
func (m *memory) knows(k *kept, r *linkSocket, s host.WallSpec, now time.Time) bool {
	return m.events != nil && k != nil && k.facts.inside.peersNS >= 0 && settled(k.insideAt, k.insideChanged) &&
		!due(s.Owner.ID(), k.insideAt, now) && sameFile(k.facts) && loopbackMarked(r, k.facts.inside.peersNS, markOf(s.Owner))
}

// sameFile reports whether a namespace's file is still the same namespace. The
// file system of namespaces has a device number of its own, so this also shows
// what kind of file it is.
func sameFile(f facts) bool {
	var st unix.Stat_t
	return unix.Lstat(f.path, &st) == nil && f.id == (host.NetNS{Dev: st.Dev, Inode: st.Ino})
}

// loopbackMarked reports whether the loopback of the namespace with this ID has a
// mark and is down.
func loopbackMarked(r *linkSocket, nsid int, mark string) bool {
	const loopback = 1 // its index, in every namespace
	marked := false
	err := r.links(0, linkRequest(loopback, nsid), func(body []byte) {
		l, ok := parseLink(body)
		marked = ok && string(l.name) == "lo" && string(l.alias) == mark && !l.up
	})
	return err == nil && marked
}
