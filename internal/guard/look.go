// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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
	for i, spec := range specs {
		if p := g.suspicious(spec, walls[i], vmms); p != nil {
			g.attend(ctx, p)
		}
	}
	g.opts.Metrics.looked(g.opts.Clock.Since(begun))
}

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

// sayFailing logs the first of several looks that fail, and the end of it.
func (g *Guard) sayFailing(ctx context.Context, err error) {
	g.mu.Lock()
	was := g.failing
	g.failing = err != nil
	g.mu.Unlock()
	switch {
	case err != nil && !was && ctx.Err() == nil:
		g.opts.Log.Error(err, "Walls cannot be looked at")
	case err == nil && was:
		g.opts.Log.Info("Walls can be looked at again")
	}
}

// suspicious is the post whose wall or machine needs a second look; nil when
// all is as it should be.
func (g *Guard) suspicious(spec host.WallSpec, w host.Wall, vmms []host.VMM) *post {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.posts[spec.Owner.UID]
	if p == nil {
		return nil
	}
	running := of(vmms, spec.Owner.ID())
	if len(w.Faults) == 0 && !outside(running, w) && (p.leak == nil || len(running) == 0) {
		g.note(p, w)
		p.faulty = ""
		return nil
	}
	return p
}

// attend looks again at one machine, undisturbed, and acts.
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
	if err := g.inspect(ctx, p); err != nil {
		g.sayFaulty(p, err.Error())
		return
	}
	if _, err := g.raise(ctx, p); err != nil {
		g.sayFaulty(p, "it cannot be mended: "+err.Error())
	}
}

// inspect looks at one wall and its machine, and stops the machine when it
// runs outside its wall, behind an open one, or after a leak; p.one is held.
func (g *Guard) inspect(ctx context.Context, p *post) error {
	g.mu.Lock()
	spec, leak := p.wall.Spec, p.leak
	g.mu.Unlock()
	walls, err := g.opts.Walls.InspectWalls(ctx, []host.WallSpec{spec})
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
	g.mu.Unlock()
	if len(w.Faults) > 0 {
		g.sayFaulty(p, words(w.Faults))
	}
	open := slices.IndexFunc(w.Faults, func(f host.WallFault) bool { return f.Open })
	switch {
	case len(vmms) == 0:
		return nil
	case leak != nil:
		return g.kill(ctx, spec) // someone started it all the same
	case outside(vmms, w):
		return g.stop(ctx, p, "the machine ran outside its wall's network namespace")
	case open >= 0:
		return g.stop(ctx, p, "the wall was open: "+w.Faults[open].What)
	}
	return nil
}

// stop kills a machine and keeps why. The breach is kept first: whoever sees
// the machine gone is to find it.
func (g *Guard) stop(ctx context.Context, p *post, what string) error {
	g.mu.Lock()
	spec := p.wall.Spec
	p.breach = &Breach{Time: g.opts.Clock.Now(), What: what}
	changed := g.changed
	g.mu.Unlock()
	if err := g.kill(ctx, spec); err != nil {
		return err
	}
	g.opts.Log.Info("A machine was stopped because its wall did not hold", "machine", spec.Owner.ID(), "what", what)
	g.opts.Metrics.breached()
	changed(spec.Owner.UID)
	return nil
}

func (g *Guard) kill(ctx context.Context, spec host.WallSpec) error {
	if err := g.opts.Machines.KillMachine(ctx, spec.Owner.ID()); err != nil {
		return fmt.Errorf("machine %s cannot be stopped: %w", spec.Owner.ID(), err)
	}
	return nil
}

// sayFaulty logs what is wrong with a wall, once.
func (g *Guard) sayFaulty(p *post, what string) {
	g.mu.Lock()
	name := p.wall.Spec.Owner.ID()
	said := p.faulty == what
	p.faulty = what
	g.mu.Unlock()
	if !said {
		g.opts.Log.Info("A wall is not as it should be", "machine", name, "what", what)
		g.opts.Metrics.faulted()
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
