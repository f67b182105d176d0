// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// machine is what is known of one Bottle's machine and wall.
type machine struct {
	// act is held while the wall is acted on. It is taken before registry.mu.
	act sync.Mutex

	// Everything below is guarded by registry.mu; wall is written only by a
	// holder of act as well.

	wall    state.Wall
	read    host.Wall // as last read back
	dropped uint64    // packets over all lives of the wall
	counted uint64    // as the filter counts, since it was made
	faulty  string    // the faults that were last reported
	breach  *Breach
	doomed  string // why the machine is to be killed, until it is

	leak      *state.Leak
	unwritten bool // the leak is not on disk yet

	nonce string // of the proof that is running

	newest int64 // generation that the wall was made for or narrowed to
}

// Breach is a machine that was killed because its wall did not hold.
type Breach struct {
	Time time.Time
	// What is fit for a condition.
	What string
}

// registry holds what is known of every machine that is guarded.
type registry struct {
	dir *state.Dir

	mu         sync.Mutex
	machines   map[string]*machine // by UID
	nonces     map[string]string   // UIDs by the nonce of a running proof
	interfaces map[string]string   // UIDs by the interfaces of the Bottle's network
	changed    func(uid string)
}

// newRegistry recalls what an earlier agent recorded.
func newRegistry(dir *state.Dir, log logr.Logger) (*registry, error) {
	r := &registry{
		dir:      dir,
		machines: map[string]*machine{}, nonces: map[string]string{}, interfaces: map[string]string{},
		changed: func(string) {},
	}
	owners, err := dir.Owners()
	if err != nil {
		return nil, err
	}
	for _, owner := range owners {
		if err := r.recall(owner.UID); err != nil {
			// One bad file must not leave all other walls unguarded.
			log.Error(err, "The wall of a Bottle is guarded again only after the Bottle's next pass", "uid", owner.UID)
		}
	}
	return r, nil
}

// recall reads the records of an earlier agent. A leak counts whatever else
// cannot be read.
func (r *registry) recall(uid string) error {
	folder, err := r.dir.Folder(uid)
	if err != nil {
		return err
	}
	leak := leakOf(folder)
	wall, err := folder.Wall()
	if wall == nil {
		wall = &state.Wall{}
	}
	if leak != nil || wall.Spec.Owner.UID != "" {
		r.machines[uid] = &machine{wall: *wall, leak: leak, newest: wall.Generation}
		r.index(wall.Spec)
	}
	return err
}

// leakOf is the leak that a folder records. A record that cannot be read
// counts as a leak.
func leakOf(folder state.Folder) *state.Leak {
	leak, err := folder.Leak()
	if err != nil {
		return &state.Leak{Path: "something unknown: the evidence on the node cannot be read"}
	}
	return leak
}

// index makes the wall's interface known; r.mu is held, or nobody else knows r.
func (r *registry) index(spec host.WallSpec) {
	if spec.Owner.UID != "" {
		r.interfaces[spec.Owner.Bridge()] = spec.Owner.UID
		r.interfaces[spec.Owner.Veth()] = spec.Owner.UID // where somebody took it off the bridge
	}
}

func (r *registry) subscribe(changed func(uid string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = changed
}

// notify calls the subscriber; r.mu must not be held.
func (r *registry) notify(uid string) {
	r.mu.Lock()
	changed := r.changed
	r.mu.Unlock()
	changed(uid)
}

func (r *registry) notifyAll() {
	for _, uid := range r.uids() {
		r.notify(uid)
	}
}

// ensure returns the machine of the UID, which it adds if need be, and the
// Bottle's folder.
func (r *registry) ensure(uid string) (*machine, state.Folder, error) {
	folder, err := r.dir.Folder(uid)
	if err != nil {
		return nil, folder, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.machines[uid]
	if m == nil {
		m = &machine{leak: leakOf(folder)}
		r.machines[uid] = m
	}
	return m, folder, nil
}

func (r *registry) remove(owner host.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.machines[owner.UID]; m != nil {
		delete(r.nonces, m.nonce)
	}
	delete(r.machines, owner.UID)
	delete(r.interfaces, owner.Bridge())
	delete(r.interfaces, owner.Veth())
}

// specs returns the walls that there should be, in order of UID.
func (r *registry) specs() []host.WallSpec {
	r.mu.Lock()
	defer r.mu.Unlock()
	var specs []host.WallSpec
	for _, m := range r.machines {
		if m.wall.Spec.Owner.UID != "" {
			specs = append(specs, m.wall.Spec)
		}
	}
	slices.SortFunc(specs, func(a, b host.WallSpec) int { return strings.Compare(a.Owner.UID, b.Owner.UID) })
	return specs
}

func (r *registry) uids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	uids := make([]string, 0, len(r.machines))
	for uid := range r.machines {
		uids = append(uids, uid)
	}
	return uids
}

// neighbours returns at most that many walls of other Bottles, in no order.
func (r *registry) neighbours(uid string, most int) []host.WallSpec {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []host.WallSpec
	for other, m := range r.machines {
		if other != uid && m.wall.Spec.Owner.UID != "" && len(out) < most {
			out = append(out, m.wall.Spec)
		}
	}
	return out
}

// record keeps what was read back of a wall; r.mu is held.
func (m *machine) record(w host.Wall) {
	m.read = w
	more := w.Dropped
	if more >= m.counted {
		more -= m.counted
	}
	m.dropped, m.counted = m.dropped+more, w.Dropped
}

func (r *registry) takeBreach(uid string) *Breach {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.machines[uid]
	if m == nil {
		return nil
	}
	b := m.breach
	m.breach = nil
	return b
}

// expect makes a touch with the nonce count as the Bottle's own, until the
// proof ends. smolvm and backend are for the evidence of a leak.
func (r *registry) expect(uid, nonce, smolvm, backend string) error {
	m, folder, err := r.ensure(uid)
	if err != nil {
		return err
	}
	m.act.Lock()
	defer m.act.Unlock()
	r.mu.Lock()
	delete(r.nonces, m.nonce)
	m.nonce = nonce
	r.nonces[nonce] = uid
	wall := m.wall
	r.mu.Unlock()
	if wall.Smolvm == smolvm && wall.Backend == backend {
		return nil
	}
	// Written without r.mu: a slow disk must not hold up the guard.
	wall.Smolvm, wall.Backend = smolvm, backend
	if err := folder.WriteWall(wall); err != nil {
		return fmt.Errorf("keep the release of smolvm: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m.wall = wall
	return nil
}

// expire makes a nonce count no more.
func (r *registry) expire(uid, nonce string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nonces, nonce)
	if m := r.machines[uid]; m != nil && m.nonce == nonce {
		m.nonce = ""
	}
}
