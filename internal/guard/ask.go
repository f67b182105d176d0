// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

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
