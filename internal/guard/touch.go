// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// killPatience bounds the stop of a machine that leaked: it is not the
// caller's context that may cut it short.
const killPatience = 30 * time.Second

// Touched judges a touch of a canary. One with the nonce of a proof, or from
// the subnet of a Bottle but for its bundle and gateway, is a leak of that
// Bottle; one by its bundle or from the node itself is a reason to prove; from
// anywhere else it says nothing.
func (g *Guard) Touched(t host.Touch) {
	uid, leak, local := g.attribute(t)
	switch {
	case leak:
		g.opts.Metrics.touched("guest")
		g.keep(uid, t)
		g.Leaked(uid, fmt.Sprintf("%s to %s, a canary of the node", t.Proto, t.Local))
	case uid != "":
		g.opts.Metrics.touched("bundle")
		g.prove(uid)
	case local:
		g.opts.Metrics.touched("node")
		for _, uid := range g.all() {
			g.prove(uid)
		}
	default:
		g.opts.Metrics.touched("elsewhere")
	}
}

// maxTouches bounds what is kept of a flood.
const maxTouches = 8

func (g *Guard) keep(uid string, t host.Touch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.posts[uid]; p != nil && len(p.touches) < maxTouches {
		p.touches = append(p.touches, t)
	}
}

func (g *Guard) attribute(t host.Touch) (uid string, leak, local bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if uid, ok := g.nonces[t.Nonce]; ok && t.Nonce != "" {
		return uid, true, false
	}
	from := t.Remote.Addr().Unmap()
	for uid, p := range g.posts {
		spec := p.wall.Spec
		if !spec.Subnet.IsValid() || !spec.Subnet.Contains(from) {
			continue
		}
		return uid, from != spec.BundleIP && from != Gateway(spec), false
	}
	return "", false, from.IsLoopback() || from == t.Local.Addr().Unmap()
}

func (g *Guard) all() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	uids := make([]string, 0, len(g.posts))
	for uid := range g.posts {
		uids = append(uids, uid)
	}
	return uids
}

func (g *Guard) prove(uid string) {
	g.mu.Lock()
	prove := g.proveIt
	g.mu.Unlock()
	prove(uid)
}

// Leaked stops the machine for good: until the Bottle is asked for anew. path
// is what was reached, in words. It is called for what a canary saw, and for
// what a proof came to, and returns at once: a kill waits for its process.
func (g *Guard) Leaked(uid, path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.posts[uid]
	if p == nil || p.leak != nil {
		return
	}
	p.leak = &state.Leak{Time: g.opts.Clock.Now().UTC().Truncate(time.Second), Path: path, Smolvm: p.wall.Smolvm, Backend: p.wall.Backend}
	p.unkept = true
	spec := p.wall.Spec
	g.opts.Metrics.leaked()
	g.behind.Go(func() { g.punish(p, spec, path) })
}

// punish kills the machine of a leak, then keeps the evidence, then tells: the
// machine first, for a leak goes on.
func (g *Guard) punish(p *post, spec host.WallSpec, path string) {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	if err := g.kill(ctx, spec); err != nil {
		g.opts.Log.Error(err, "A machine that leaked is killed again at the next look", "machine", spec.Owner.ID())
	}
	g.opts.Log.Info("A machine leaked and was stopped", "machine", spec.Owner.ID(), "path", path)
	if folder, err := g.opts.State.Folder(spec.Owner.UID); err == nil {
		p.one.Lock()
		g.keepEvidence(p, folder)
		p.one.Unlock()
	}
	g.mu.Lock()
	changed := g.changed
	g.mu.Unlock()
	changed(spec.Owner.UID)
}

// keepEvidence writes a leak that is not written yet; it is tried again at
// every look. p.one is held.
func (g *Guard) keepEvidence(p *post, folder state.Folder) {
	g.mu.Lock()
	leak, unkept := p.leak, p.unkept
	g.mu.Unlock()
	if leak == nil || !unkept {
		return
	}
	if err := folder.WriteLeak(*leak); err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p.unkept = false
}

// Tell says that the Bottle's user is being told of its leak in a state of the
// Bottle; from then on another state forgives it. It returns the leak that
// counts for this state: nil when there is none, or when it is forgiven.
func (g *Guard) Tell(uid, asked string) *state.Leak {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.posts[uid]
	if p == nil || p.leak == nil {
		return nil
	}
	if p.leak.Told == "" {
		told := *p.leak
		told.Told = asked
		p.leak, p.unkept = &told, true
	}
	if p.leak.Told != asked {
		return nil
	}
	return p.leak
}

// forgive lets go of a leak that was told of another state of the Bottle. Its
// machine is down by now; p.one is held.
func (g *Guard) forgive(p *post, folder state.Folder, asked string) error {
	g.mu.Lock()
	leak := p.leak
	g.mu.Unlock()
	if leak == nil || leak.Told == "" || leak.Told == asked {
		g.keepEvidence(p, folder)
		return nil
	}
	if err := folder.RemoveLeak(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p.leak, p.unkept = nil, false
	return nil
}

// Gateway is the node's own address in a wall's subnet.
func Gateway(spec host.WallSpec) netip.Addr { return spec.Subnet.Masked().Addr().Next() }
