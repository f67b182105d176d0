// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"botbottle.dev/bottle-operator/internal/host"
)

// Look looks at all machines and walls once, makes safe what is not, and
// mends what can be mended.
func (g *Guard) Look(ctx context.Context) {
	begun := g.opts.Clock.Now()
	specs, names := g.watched()
	if len(specs) == 0 {
		return
	}
	specs, walls, err := g.inspectAll(ctx, specs)
	var vmms []host.VMM
	if err == nil {
		vmms, err = g.opts.Machines.VMMs(ctx, names)
	}
	g.sayFailing(ctx, err)
	if err != nil {
		return
	}
	var attending errgroup.Group
	attending.SetLimit(attendAtOnce)
	for i, spec := range specs {
		if p := g.suspicious(spec, walls[i], vmms); p != nil {
			attending.Go(func() error {
				g.attend(ctx, p)
				return nil
			})
		}
	}
	_ = attending.Wait() // nothing is returned
	g.opts.Metrics.looked(g.opts.Clock.Now(), g.opts.Clock.Since(begun))
}

// attendAtOnce is how many machines are made safe at once: a kill waits for
// its process to go.
const attendAtOnce = 64

// inspectAll reads back all walls that can be. One record that makes no sense
// must not leave all others unwatched.
func (g *Guard) inspectAll(ctx context.Context, specs []host.WallSpec) ([]host.WallSpec, []host.Wall, error) {
	walls, err := g.opts.Walls.InspectWalls(ctx, specs)
	if errors.Is(err, host.ErrInvalid) && len(specs) > 1 {
		var goodSpecs []host.WallSpec
		var good []host.Wall
		for _, spec := range specs {
			one, oneErr := g.opts.Walls.InspectWalls(ctx, []host.WallSpec{spec})
			if oneErr == nil {
				goodSpecs, good = append(goodSpecs, spec), append(good, one...)
			}
		}
		specs, walls, err = goodSpecs, good, nil
	}
	if err == nil && len(walls) != len(specs) {
		err = fmt.Errorf("walls: read back %d of %d", len(walls), len(specs))
	}
	return specs, walls, err
}

// watched are the walls that there should be, with their machines' names.
func (g *Guard) watched() (specs []host.WallSpec, names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.posts {
		if p.wall.Spec.Owner.UID != "" {
			specs = append(specs, p.wall.Spec)
		}
	}
	slices.SortFunc(specs, func(a, b host.WallSpec) int { return strings.Compare(a.Owner.UID, b.Owner.UID) })
	for _, s := range specs {
		names = append(names, s.Owner.ID())
	}
	return specs, names
}

// sayFailing logs the first of several looks that fail, and the end of it, and
// has all Bottles looked at then: nobody watches over them meanwhile.
func (g *Guard) sayFailing(ctx context.Context, err error) {
	g.mu.Lock()
	was, changed := g.failing, g.changed
	g.failing = err != nil
	g.mu.Unlock()
	switch {
	case err != nil && !was && ctx.Err() == nil:
		g.opts.Log.Error(err, "Walls cannot be looked at")
	case err == nil && was:
		g.opts.Log.Info("Walls can be looked at again")
	default:
		return
	}
	for _, uid := range g.all() {
		changed(uid)
	}
}

// suspicious is the post whose wall or machine needs a second look; nil when
// all is as it should be.
func (g *Guard) suspicious(spec host.WallSpec, w host.Wall, vmms []host.VMM) *post {
	g.mu.Lock()
	p := g.posts[spec.Owner.UID]
	if p == nil {
		g.mu.Unlock()
		return nil
	}
	running := of(vmms, spec.Owner.ID())
	if w.Err != nil || len(w.Faults) > 0 || outside(running, w) || p.unkept || (p.leak != nil || p.doomed != "") && len(running) > 0 {
		g.mu.Unlock()
		return p
	}
	g.note(p, w)
	mended, changed := p.faulty != "", g.changed
	p.faulty = ""
	g.mu.Unlock()
	if mended {
		changed(spec.Owner.UID)
	}
	return nil
}

// attend looks again at one machine, undisturbed, and acts. A wall is mended
// also when its machine could not be stopped: either makes it safe.
func (g *Guard) attend(ctx context.Context, p *post) {
	p.one.Lock()
	defer p.one.Unlock()
	g.mu.Lock()
	spec := p.wall.Spec
	here := g.posts[spec.Owner.UID] == p && spec.Owner.UID != ""
	g.mu.Unlock()
	if !here {
		return // released meanwhile
	}
	folder, err := g.opts.State.Folder(spec.Owner.UID)
	if err == nil {
		g.keepEvidence(p, folder)
		err = g.inspect(ctx, p)
		_, mendErr := g.raise(ctx, p, folder)
		err = errors.Join(err, mendErr)
	}
	if err != nil && ctx.Err() == nil {
		g.sayFaulty(p, err.Error())
	}
}

// inspect looks at one wall and its machine, and stops the machine when it
// runs outside its wall, behind an open one, or after a leak; p.one is held.
func (g *Guard) inspect(ctx context.Context, p *post) error {
	g.mu.Lock()
	spec, leak := p.wall.Spec, p.leak
	g.mu.Unlock()
	walls, err := g.opts.Walls.InspectWalls(ctx, []host.WallSpec{spec})
	if err == nil {
		err = walls[0].Err
	}
	if err != nil {
		return err
	}
	vmms, err := g.opts.Machines.VMMs(ctx, []string{spec.Owner.ID()})
	if err != nil {
		return err
	}
	w := walls[0]
	g.mu.Lock()
	g.note(p, w)
	open := p.open(w)
	if len(vmms) == 0 {
		p.doomed = ""
	}
	doomed := p.doomed
	g.mu.Unlock()
	if len(w.Faults) > 0 {
		g.sayFaulty(p, words(w.Faults))
	}
	switch {
	case len(vmms) == 0:
		return nil
	case leak != nil:
		return g.kill(ctx, spec) // someone started it all the same
	case outside(vmms, w):
		return g.stop(ctx, p, "the machine ran outside its wall's network namespace")
	case open != "":
		return g.stop(ctx, p, "the wall was open: "+open)
	case doomed != "":
		return g.stop(ctx, p, doomed)
	}
	return nil
}

// open is what makes a wall open; "" is nothing. A filter with other rules than
// the spec's that stands as it last stood is one of ours: an earlier release's,
// or of an agent that died before it wrote the new one.
func (p *post) open(w host.Wall) string {
	for _, f := range w.Faults {
		if f.Open && !(f.Rules && p.wall.Filter != "" && w.Filter == p.wall.Filter) {
			return f.What
		}
	}
	return ""
}

// stop kills a machine and keeps why. It is told whatever comes of the kill:
// whoever sees the machine gone is to find the reason, and one that cannot be
// stopped is worth a look most of all.
func (g *Guard) stop(ctx context.Context, p *post, what string) error {
	g.mu.Lock()
	spec := p.wall.Spec
	p.breach = &Breach{Time: g.opts.Clock.Now(), What: what}
	p.doomed = what
	changed := g.changed
	g.mu.Unlock()
	err := g.kill(ctx, spec)
	if err == nil {
		g.mu.Lock()
		p.doomed = ""
		g.mu.Unlock()
	}
	g.opts.Metrics.breached()
	g.opts.Log.Info("A machine's wall did not hold, it is stopped", "machine", spec.Owner.ID(), "what", what, "stopped", err == nil)
	changed(spec.Owner.UID)
	return err
}

func (g *Guard) kill(ctx context.Context, spec host.WallSpec) error {
	if err := g.opts.Machines.KillMachine(ctx, spec.Owner.ID()); err != nil {
		return fmt.Errorf("machine %s cannot be stopped: %w", spec.Owner.ID(), err)
	}
	return nil
}

// sayFaulty logs what is wrong with a wall, once, and has the Bottle looked at.
func (g *Guard) sayFaulty(p *post, what string) {
	g.mu.Lock()
	owner, changed := p.wall.Spec.Owner, g.changed
	said := p.faulty == what
	p.faulty = what
	g.mu.Unlock()
	if !said {
		g.opts.Log.Info("A wall is not as it should be", "machine", owner.ID(), "what", what)
		g.opts.Metrics.faulted()
		changed(owner.UID)
	}
}

func of(vmms []host.VMM, name string) []host.VMM {
	var out []host.VMM
	for _, v := range vmms {
		if v.Name == name {
			out = append(out, v)
		}
	}
	return out
}

// outside says whether one of a machine's VMMs is not in the wall's namespace.
func outside(vmms []host.VMM, w host.Wall) bool {
	return slices.ContainsFunc(vmms, func(v host.VMM) bool { return w.NetNS == (host.NetNS{}) || v.NetNS != w.NetNS })
}

func words(faults []host.WallFault) string {
	out := make([]string, len(faults))
	for i, f := range faults {
		out[i] = f.What
	}
	return strings.Join(out, "; ")
}
