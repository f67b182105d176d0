// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// machine is what is known about one Bottle's machine and wall.
type machine struct {
	// lock is held while the spec of the wall, the rules, and the files with both are
	// changed. It is taken before acting. Whoever must not wait for the disk does not take it.
	lock sync.Mutex
	// copying is held while the bundle's own copy of the rules is changed, and never while a
	// file on the disk is written. It is taken after lock and before registry.mu.
	copying sync.Mutex
	// acting is held while the wall or its machine is acted on, and never while a file is
	// written. It is taken before registry.mu.
	acting sync.Mutex
	// rules are those in force if the rules file allows more, because it could not be
	// written; nil if they are in the file. lock guards them.
	rules *egress.Set

	// registry.mu guards everything below.

	wall           state.Wall
	unsaved        bool      // wall is newer than its file
	gone           bool      // the wall was deleted, or is just being deleted
	checking       bool      // the guard rechecks the machine
	read           host.Wall // as last read back
	dropped        uint64    // packets, summed over all filters that the wall had
	counted        uint64    // packets that the present filter has dropped
	reportedFaults string    // the faults that were last reported
	breach         *Breach
	killReason     string // why the machine must be killed; "" once it is

	leak      *state.Leak
	unwritten bool // the leak is not on disk yet

	nonce string // of the running proof

	newest int64 // the newest generation that the wall was made for or narrowed to
}

// Breach records that a machine was killed because its wall did not hold.
type Breach struct {
	Time time.Time
	// What describes the breach and is suitable for a condition.
	What string
}

// registry holds what is known about every guarded machine.
type registry struct {
	dir *state.Dir

	mu         sync.Mutex
	machines   map[string]*machine // by UID
	nonces     map[string]string   // UIDs by the nonce of a running proof
	interfaces map[string]string   // UIDs by the names of interfaces of the Bottle's network
	changed    func(uid string)
}

// newRegistry returns a registry with the records of an earlier agent.
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
		if err := r.load(owner.UID); err != nil {
			// One bad file must not leave all other walls unguarded.
			log.Error(err, "A Bottle's wall stays unguarded until the Bottle's next pass", "uid", owner.UID)
		}
	}
	return r, nil
}

// load reads an earlier agent's records of a Bottle. A recorded leak counts even
// if the other records cannot be read, and so do limits on the Bottle's rules.
func (r *registry) load(uid string) error {
	folder, err := r.dir.Folder(uid)
	if err != nil {
		return err
	}
	leak := readLeak(folder)
	wall, err := folder.Wall()
	if wall == nil {
		wall = &state.Wall{}
	}
	if err != nil || leak != nil || wall.Spec.Owner.UID != "" {
		r.machines[uid] = &machine{wall: *wall, leak: leak, newest: wall.Generation}
		r.index(wall.Spec)
	}
	return err
}

// readLeak returns the leak that a folder records, or nil. An unreadable record
// counts as a leak.
func readLeak(folder state.Folder) *state.Leak {
	leak, err := folder.Leak()
	if err != nil {
		return &state.Leak{Path: "something unknown: the evidence on the node cannot be read"}
	}
	return leak
}

// index adds the wall's interfaces to r.interfaces. The caller holds r.mu, or is
// the only user of r.
func (r *registry) index(spec host.WallSpec) {
	if spec.Owner.UID != "" {
		r.interfaces[spec.Owner.Bridge()] = spec.Owner.UID
		r.interfaces[spec.Owner.Veth()] = spec.Owner.UID // in case somebody detached it from the bridge
	}
}

func (r *registry) subscribe(changed func(uid string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed = changed
}

// notify calls the subscriber. The caller must not hold r.mu.
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

// ensure returns the Bottle's machine, which it adds if it is not known yet, and
// the Bottle's folder.
func (r *registry) ensure(uid string) (*machine, state.Folder, error) {
	folder, err := r.dir.Folder(uid)
	if err != nil {
		return nil, folder, err
	}
	if m := r.find(uid); m != nil {
		return m, folder, nil
	}
	leak := readLeak(folder) // without r.mu: a slow disk must not delay the guard
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.machines[uid]
	if m == nil {
		m = &machine{leak: leak}
		r.machines[uid] = m
	}
	return m, folder, nil
}

// find returns the Bottle's machine, nil if it is not known.
func (r *registry) find(uid string) *machine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.machines[uid]
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

// specs returns the specs of all recorded walls, sorted by UID.
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

// neighbours returns the walls of at most that many Bottles other than the wall's, in no
// particular order.
func (r *registry) neighbours(of host.WallSpec, most int) []host.WallSpec {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []host.WallSpec
	for other, m := range r.machines {
		if other != of.Owner.UID && m.wall.Spec.Owner.UID != "" && len(out) < most {
			out = append(out, m.wall.Spec)
		}
	}
	return out
}

// record stores a wall as read back, and adds up its dropped packets. The caller
// holds registry.mu.
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

// expect makes hits with the nonce count as the Bottle's own until the proof
// ends. smolvm and backend are recorded as evidence in case of a leak.
func (r *registry) expect(uid, nonce, smolvm, backend string) error {
	m, folder, err := r.ensure(uid)
	if err != nil {
		return err
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	r.mu.Lock()
	delete(r.nonces, m.nonce)
	m.nonce = nonce
	r.nonces[nonce] = uid
	if m.wall.Smolvm != smolvm || m.wall.Backend != backend {
		m.wall.Smolvm, m.wall.Backend, m.unsaved = smolvm, backend, true
	}
	r.mu.Unlock()
	if err := r.save(m, folder); err != nil {
		return fmt.Errorf("record the release of smolvm: %w", err)
	}
	return nil
}

// expire makes a nonce no longer count.
func (r *registry) expire(uid, nonce string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.nonces, nonce)
	if m := r.machines[uid]; m != nil && m.nonce == nonce {
		m.nonce = ""
	}
}
