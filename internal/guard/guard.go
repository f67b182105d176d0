// SPDX-License-Identifier: Apache-2.0

// Package guard watches over every running machine of the node, from its own
// loop: that it runs within its wall, that the wall stands, and that it has
// touched no canary. What fails is made safe first (the VMM is killed) and told
// afterwards. It needs the kernel and the state directory alone: neither
// dockerd nor smolvm nor the API server can hold it up, and it watches over
// machines of an agent's earlier life before the API server has answered.
//
// It starts no machine, proves nothing and writes no status: that is for
// whoever is called back. It does not look into guests.
package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// Machines is what the guard asks of the machines' port: nothing that goes
// through smolvm.
type Machines interface {
	VMMs(ctx context.Context, names []string) ([]host.VMM, error)
	KillMachine(ctx context.Context, name string) error
}

// Options of a Guard. All are required but where said.
type Options struct {
	Walls    host.Walls
	Machines Machines
	State    *state.Dir
	Clock    clock.WithTicker
	Log      logr.Logger
	// Interval is the time between two looks.
	Interval time.Duration
	// Metrics may be nil.
	Metrics *Metrics
}

// Guard watches over machines. Its methods may be called at once from
// anywhere.
type Guard struct {
	opts Options

	mu      sync.Mutex
	posts   map[string]*post // by UID
	nonces  map[string]string
	changed func(uid string)
	proveIt func(uid string)
	failing bool // the last look could not be made

	behind sync.WaitGroup // of leaks whose machines are being killed
}

// post is what is known of one machine that is watched over.
type post struct {
	// one holds the wall while it is acted on. Taken before Guard.mu.
	one sync.Mutex

	// wall is written under both locks, all below it under Guard.mu.
	wall    state.Wall
	read    host.Wall // as last read back
	breach  *Breach
	doomed  string // why the machine is to be stopped, until it is
	leak    *state.Leak
	unkept  bool   // the evidence could not be written yet
	dropped uint64 // all that were ever counted
	counted uint64 // as the filter counts, since it was made
	faulty  string // what was last said to be wrong
	nonce   string
	touches []host.Touch // with that nonce, or from the machine's subnet
}

// Breach is a machine that was stopped because its wall did not hold.
type Breach struct {
	Time time.Time
	// What is fit for a condition.
	What string
}

// New is a Guard of the machines that the state directory records.
func New(o Options) (*Guard, error) {
	g := &Guard{
		opts:    o,
		posts:   map[string]*post{},
		nonces:  map[string]string{},
		changed: func(string) {},
		proveIt: func(string) {},
	}
	owners, err := o.State.Owners()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	for _, owner := range owners {
		if err := g.recall(owner.UID); err != nil {
			// One bad file must not leave all others unwatched.
			o.Log.Error(err, "A Bottle's wall is watched again only once the Bottle is looked at", "uid", owner.UID)
		}
	}
	return g, nil
}

// recall takes up the post of an earlier life. The leak comes first: whatever
// else cannot be read, it counts.
func (g *Guard) recall(uid string) error {
	folder, err := g.opts.State.Folder(uid)
	if err != nil {
		return err
	}
	leak := leakOf(folder)
	wall, err := folder.Wall()
	if wall == nil {
		wall = &state.Wall{}
	}
	if leak != nil || wall.Spec.Owner.UID != "" {
		g.posts[uid] = &post{wall: *wall, leak: leak}
	}
	return err
}

// leakOf is the leak that a folder records. One that cannot be read is one.
func leakOf(folder state.Folder) *state.Leak {
	leak, err := folder.Leak()
	if err != nil {
		return &state.Leak{Path: "something unknown: the evidence on the node cannot be read"}
	}
	return leak
}

// Listen sets who is told: changed of anything that happened to a Bottle's
// wall or machine, prove of a reason to prove it again.
func (g *Guard) Listen(changed, prove func(uid string)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changed, g.proveIt = changed, prove
}

// Start looks until ctx ends: at each interval, and as soon as the kernel says
// that something happened to a wall, but never more than a fifth of the time.
func (g *Guard) Start(ctx context.Context) error {
	happened := make(chan struct{}, 1)
	go g.watch(ctx, happened)
	ticker := g.opts.Clock.NewTicker(g.opts.Interval)
	defer ticker.Stop()
	for {
		begun := g.opts.Clock.Now()
		g.Look(ctx)
		rest := g.opts.Clock.After(max(shortestRest, 4*g.opts.Clock.Since(begun)))
		select {
		case <-ctx.Done():
			return nil
		case <-rest:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		case <-happened:
		}
	}
}

const (
	// shortestRest lets what comes in one go be seen in one look.
	shortestRest = 20 * time.Millisecond
	// watchAgain is the pause before a watch that ended is begun anew; the
	// interval goes on meanwhile.
	watchAgain = 10 * time.Second
)

// watch fills happened until ctx ends.
func (g *Guard) watch(ctx context.Context, happened chan<- struct{}) {
	for ctx.Err() == nil {
		err := g.opts.Walls.WatchWalls(ctx, func() {
			select {
			case happened <- struct{}{}:
			default: // a look is due already
			}
		})
		if ctx.Err() != nil {
			return
		}
		g.opts.Log.Error(err, "Walls are looked at by the clock alone until they can be watched again")
		select {
		case <-ctx.Done():
		case <-g.opts.Clock.After(watchAgain):
		}
	}
}

// Ensure makes the wall stand and watches over the machine from then on. One
// that is found open while its machine runs has the machine stopped first.
// asked is the state of the Bottle: a leak that was told of another is
// forgiven, once its machine is down. ErrUnavailable when the wall does not
// stand as it should all the same, for what is in its way is someone else's.
func (g *Guard) Ensure(ctx context.Context, spec host.WallSpec, asked string) (host.Wall, error) {
	begun := g.opts.Clock.Now()
	defer func() { g.opts.Metrics.raised(g.opts.Clock.Since(begun)) }()
	folder, err := g.opts.State.Folder(spec.Owner.UID)
	if err != nil {
		return host.Wall{}, err
	}
	p := g.post(spec.Owner.UID, folder)
	p.one.Lock()
	defer p.one.Unlock()
	if p.wall.Spec.Owner.UID != "" {
		// Before it is mended: whoever mends an open wall stops its machine.
		if err := g.inspect(ctx, p); err != nil {
			_, mendErr := g.raise(ctx, p, folder)
			return host.Wall{}, errors.Join(err, mendErr)
		}
	}
	if err := g.forgive(p, folder, asked); err != nil {
		return host.Wall{}, err
	}
	want := p.wall
	want.Spec = spec
	// The record comes first, with the filter as it stands: an agent that dies
	// here leaves its successor both.
	if err := folder.WriteWall(want); err != nil {
		return host.Wall{}, err
	}
	g.mu.Lock()
	p.wall = want
	g.mu.Unlock()
	return g.raise(ctx, p, folder)
}

// post is the post of a Bottle, made if need be.
func (g *Guard) post(uid string, folder state.Folder) *post {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.posts[uid]
	if p == nil {
		p = &post{leak: leakOf(folder)}
		g.posts[uid] = p
	}
	return p
}

// raise makes the wall stand, and keeps how its filter reads; p.one is held.
func (g *Guard) raise(ctx context.Context, p *post, folder state.Folder) (host.Wall, error) {
	spec := p.wall.Spec
	w, err := g.opts.Walls.EnsureWall(ctx, spec)
	if err != nil {
		return w, err
	}
	g.mu.Lock()
	g.note(p, w)
	record := p.wall
	g.mu.Unlock()
	if len(w.Faults) > 0 {
		return w, fmt.Errorf("wall %s: %s: %w", spec.Owner.ID(), words(w.Faults), host.ErrUnavailable)
	}
	if record.Filter == w.Filter {
		return w, nil
	}
	record.Filter = w.Filter
	if err := folder.WriteWall(record); err != nil {
		return w, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p.wall.Filter = w.Filter
	return w, nil
}

// Release stops watching and takes the wall down; absent is nil. The machine
// is to be gone by then.
func (g *Guard) Release(ctx context.Context, owner host.Owner) error {
	folder, err := g.opts.State.Folder(owner.UID)
	if err != nil {
		return err
	}
	p := g.post(owner.UID, folder)
	p.one.Lock()
	defer p.one.Unlock()
	if err := g.opts.Walls.DeleteWall(ctx, owner); err != nil {
		return err
	}
	if err := folder.RemoveWall(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.posts, owner.UID)
	delete(g.nonces, p.nonce)
	return nil
}

// note keeps what was read back; g.mu is held.
func (g *Guard) note(p *post, w host.Wall) {
	p.read = w
	more := w.Dropped
	if more >= p.counted {
		more -= p.counted
	}
	p.dropped, p.counted = p.dropped+more, w.Dropped
}

// Expect has a proof's nonce count as the Bottle's own, and what is known of
// its smolvm stand in the evidence of a leak. Only the last nonce counts.
func (g *Guard) Expect(uid, nonce, smolvm, backend string) error {
	folder, err := g.opts.State.Folder(uid)
	if err != nil {
		return err
	}
	p := g.post(uid, folder)
	p.one.Lock()
	defer p.one.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.nonces, p.nonce)
	p.nonce, p.touches = nonce, nil
	g.nonces[nonce] = uid
	if p.wall.Smolvm == smolvm && p.wall.Backend == backend {
		return nil
	}
	p.wall.Smolvm, p.wall.Backend = smolvm, backend
	return folder.WriteWall(p.wall)
}

// State is what the guard has to say of one Bottle.
type State struct {
	// Watched: there is a wall to watch.
	Watched bool
	// Wall as last read back.
	Wall host.Wall
	// Breach is the last one that TakeBreach has not taken, Leak one that
	// still counts.
	Breach *Breach
	Leak   *state.Leak
	// Touches are those of canaries that count against the Bottle since Expect.
	Touches []host.Touch
	// Dropped counts packets over all lives of the wall.
	Dropped uint64
}

// State of the Bottle with this UID.
func (g *Guard) State(uid string) State {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.posts[uid]
	if p == nil {
		return State{}
	}
	return State{
		Watched: p.wall.Spec.Owner.UID != "", Wall: p.read,
		Breach: p.breach, Leak: p.leak, Dropped: p.dropped, Touches: slices.Clone(p.touches),
	}
}

// TakeBreach returns the last breach once.
func (g *Guard) TakeBreach(uid string) *Breach {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.posts[uid]
	if p == nil {
		return nil
	}
	b := p.breach
	p.breach = nil
	return b
}

// Walls are all that there should be, in order of UID.
func (g *Guard) Walls() []host.WallSpec {
	specs, _ := g.watched()
	return specs
}

// Neighbours are the bundles of other Bottles, in no order, at most that many.
func (g *Guard) Neighbours(uid string, most int) []host.WallSpec {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []host.WallSpec
	for other, p := range g.posts {
		if other != uid && p.wall.Spec.Owner.UID != "" && len(out) < most {
			out = append(out, p.wall.Spec)
		}
	}
	return out
}
