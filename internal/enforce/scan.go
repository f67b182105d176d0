// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

// scan checks all machines and walls once. It kills machines that are not
// confined, and repairs the walls that it can repair.
func (g *guard) scan(ctx context.Context) {
	started := g.Clock.Now()
	specs := g.watched.specs()
	if len(specs) == 0 {
		g.guarded(0)
		return
	}
	specs, walls, err := g.inspectAll(ctx, specs)
	var vmms []host.VMM
	if err == nil {
		names := make([]string, len(specs))
		for i, s := range specs {
			names[i] = s.Owner.ID()
		}
		vmms, err = g.Machines.VMMs(ctx, names)
	}
	g.reportScanError(ctx, err)
	if err != nil {
		return
	}
	running := map[string][]host.VMM{}
	for _, v := range vmms {
		running[v.Name] = append(running[v.Name], v)
	}
	var suspects []*machine
	for i, spec := range specs {
		if m := g.suspect(spec, walls[i], running[spec.Owner.ID()]); m != nil {
			suspects = append(suspects, m)
		}
	}
	g.recheckAll(ctx, suspects)
	g.Metrics.scanned(g.Clock.Now(), g.Clock.Since(started))
	g.guarded(len(specs))
}

func (g *guard) guarded(machines int) {
	if g.Guarded != nil {
		g.Guarded(machines)
	}
}

// inspectAll reads back all walls that can be read. One invalid record must not
// leave all other walls unguarded.
func (g *guard) inspectAll(ctx context.Context, specs []host.WallSpec) ([]host.WallSpec, []host.Wall, error) {
	walls, err := g.Walls.InspectWalls(ctx, specs)
	if errors.Is(err, host.ErrInvalid) && len(specs) > 1 {
		var goodSpecs []host.WallSpec
		var good []host.Wall
		for _, spec := range specs {
			one, oneErr := g.Walls.InspectWalls(ctx, []host.WallSpec{spec})
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

// reportScanError logs the first of several scans that fail, and the first scan
// that succeeds again. Both times it notifies the subscriber of all Bottles,
// because nothing guards them while scans fail.
func (g *guard) reportScanError(ctx context.Context, err error) {
	g.watched.mu.Lock()
	was := g.failing
	g.failing = err != nil
	g.watched.mu.Unlock()
	switch {
	case err != nil && !was && ctx.Err() == nil:
		g.Log.Error(err, "Walls cannot be checked")
	case err == nil && was:
		g.Log.Info("Walls can be checked again")
	default:
		return
	}
	g.watched.notifyAll()
}

// suspect returns the machine if it or its wall must be rechecked, and nil if
// all is well.
func (g *guard) suspect(spec host.WallSpec, w host.Wall, running []host.VMM) *machine {
	uid := spec.Owner.UID
	g.watched.mu.Lock()
	m := g.watched.machines[uid]
	if m == nil || m.checking {
		g.watched.mu.Unlock()
		return nil
	}
	if w.Err != nil || len(w.Faults) > 0 || outside(running, w) || m.unwritten || (m.leak != nil || m.killReason != "") && len(running) > 0 {
		m.checking = true
		g.watched.mu.Unlock()
		return m
	}
	m.record(w)
	repaired := m.reportedFaults != ""
	m.reportedFaults = ""
	g.watched.mu.Unlock()
	if repaired {
		g.watched.notify(uid)
	}
	return nil
}

// inspect checks one wall and its machine. It kills a machine that runs outside
// its wall, behind an open wall, or after a leak. It returns a description of
// the wall's faults. The caller holds m.acting.
func (g *guard) inspect(ctx context.Context, m *machine) (faults string, err error) {
	g.watched.mu.Lock()
	spec := m.wall.Spec
	g.watched.mu.Unlock()
	walls, err := g.Walls.InspectWalls(ctx, []host.WallSpec{spec})
	if err == nil {
		err = walls[0].Err
	}
	if err != nil {
		return "", errors.Join(err, g.killDoomed(ctx, m))
	}
	running, err := g.Machines.VMMs(ctx, []string{spec.Owner.ID()})
	if err != nil {
		return "", err
	}
	w := walls[0]
	g.watched.mu.Lock()
	m.record(w)
	open := m.open(w)
	if len(running) == 0 {
		m.killReason = ""
	}
	leaked, killReason := m.leak != nil, m.killReason
	g.watched.mu.Unlock()
	faults = describe(w.Faults)
	switch {
	case len(running) == 0:
		return faults, nil
	case leaked:
		return faults, g.kill(ctx, spec) // somebody started it in spite of the leak
	case outside(running, w):
		return faults, g.killBreached(ctx, m, "the machine ran outside its wall's network namespace")
	case open != "":
		return faults, g.killBreached(ctx, m, "the wall was open: "+open)
	case killReason != "":
		return faults, g.killBreached(ctx, m, killReason)
	}
	return faults, nil
}

// killDoomed kills a machine that must be down whatever its wall is like: after a leak, or
// if an earlier kill failed. It is for a wall that cannot be read, for example because the
// network namespace of its Pod is not known. The caller holds m.acting.
func (g *guard) killDoomed(ctx context.Context, m *machine) error {
	g.watched.mu.Lock()
	spec, leaked, killReason := m.wall.Spec, m.leak != nil, m.killReason
	g.watched.mu.Unlock()
	if !leaked && killReason == "" {
		return nil
	}
	running, err := g.Machines.VMMs(ctx, []string{spec.Owner.ID()})
	switch {
	case err != nil || len(running) == 0:
		return err
	case leaked:
		return g.kill(ctx, spec)
	}
	return g.killBreached(ctx, m, killReason)
}

// open returns the fault that makes a wall open, or "". A filter that differs
// from the spec but is unchanged since it was last read is one of ours: an
// earlier release wrote it, or an agent that died before it wrote the new one.
// It does not count as open.
func (m *machine) open(w host.Wall) string {
	for _, f := range w.Faults {
		if f.Open && !(f.Rules && m.wall.Filter != "" && w.Filter == m.wall.Filter) {
			return f.What
		}
	}
	return ""
}

// killBreached kills a machine and records why. It reports the breach even if
// the kill fails: anyone who sees that the machine is gone must find the
// reason, and a machine that cannot be killed deserves attention most of all.
func (g *guard) killBreached(ctx context.Context, m *machine, what string) error {
	g.watched.mu.Lock()
	spec := m.wall.Spec
	m.breach = &Breach{Time: g.Clock.Now(), What: what}
	m.killReason = what
	g.watched.mu.Unlock()
	err := g.kill(ctx, spec)
	if err == nil {
		g.watched.mu.Lock()
		m.killReason = ""
		g.watched.mu.Unlock()
	}
	g.Metrics.breached()
	g.Log.Info("A wall did not hold and its machine was killed", "machine", spec.Owner.ID(), "what", what, "killed", err == nil)
	g.watched.notify(spec.Owner.UID)
	return err
}

func (g *guard) kill(ctx context.Context, spec host.WallSpec) error {
	if err := g.Machines.KillMachine(ctx, spec.Owner.ID()); err != nil {
		return fmt.Errorf("machine %s cannot be killed: %w", spec.Owner.ID(), err)
	}
	return nil
}

// reportFaults logs what is wrong with a wall and why it could not be repaired,
// and notifies the subscriber. It reports the same problem only once.
func (g *guard) reportFaults(m *machine, faults string, err error) {
	what := faults
	if err != nil {
		what = strings.TrimPrefix(what+"; "+strings.ReplaceAll(err.Error(), "\n", "; "), "; ")
	}
	if what == "" {
		return
	}
	g.watched.mu.Lock()
	owner := m.wall.Spec.Owner
	known := m.reportedFaults == what
	m.reportedFaults = what
	g.watched.mu.Unlock()
	if known {
		return
	}
	g.Log.Info("A wall is not as specified", "machine", owner.ID(), "what", what)
	g.Metrics.faulted()
	g.watched.notify(owner.UID)
}

// outside reports whether one of a machine's processes is outside the wall's
// network namespace.
func outside(running []host.VMM, w host.Wall) bool {
	return slices.ContainsFunc(running, func(v host.VMM) bool { return w.NetNS == (host.NetNS{}) || v.NetNS != w.NetNS })
}

func describe(faults []host.WallFault) string {
	out := make([]string, len(faults))
	for i, f := range faults {
		out[i] = f.What
	}
	return strings.Join(out, "; ")
}
