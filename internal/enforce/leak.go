// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// killTimeout bounds the kill of a machine that leaked. The kill does not
// depend on a caller's context.
const killTimeout = 30 * time.Second

// finding is what a hit on a canary means.
type finding string

const (
	// foundLeak: the machine reached what it must not reach.
	foundLeak finding = "guest"
	// foundBundle: the hit came from the Bottle's bundle. The Bottle's walls
	// are proven again.
	foundBundle finding = "bundle"
	// foundNode: the hit came from a process on the node, and no source address
	// tells which Bottle it belongs to. All walls are proven again.
	foundNode finding = "node"
	// foundNothing: the hit came from elsewhere.
	foundNothing finding = "elsewhere"
)

// judge applies the rule that defines a leak. A hit on a canary is a leak of a
// Bottle if
//
//   - it carries the nonce of the proof that runs in the Bottle's guest, which
//     only that guest knows; or
//   - it was received on an interface of the Bottle's own network, from any
//     address but the bundle's and the node's own.
//
// Nothing else is a leak. Anyone who may send raw packets can forge the source
// address of a datagram, so an address alone must never stop a machine. The
// node's own addresses do not count, because the kernel reports a packet that
// the node sends to the Bottle's gateway as received on the Bottle's interface.
// Any other hit is at most a reason for another proof.
//
// A proof adds one case, see leaks.onConfession: the prober itself reports that
// it reached a target. There, the guest's word counts only against itself.
func (l *leaks) judge(t host.CanaryHit) (uid string, what finding) {
	from := t.Remote.Addr().Unmap()
	uid, bundle, nonce := l.watched.origin(t)
	switch {
	case nonce:
		return uid, foundLeak
	case uid == "":
		if from.IsLoopback() && t.Interface == loopback || from == t.Local.Addr().Unmap() {
			return "", foundNode
		}
		return "", foundNothing
	case from == bundle:
		return uid, foundBundle
	}
	// If the lookup fails, the address counts as a guest's.
	if own, err := l.Canaries.IsOwn(from); err == nil && own {
		return "", foundNode
	}
	return uid, foundLeak
}

// loopback is the interface on which a node receives what it sends to itself.
const loopback = "lo"

// origin returns the Bottle that a hit concerns, and its bundle's address. It
// identifies the Bottle by the nonce of a running proof (and returns no bundle
// then), or else by the interface on which the hit was received.
func (r *registry) origin(t host.CanaryHit) (uid string, bundle netip.Addr, nonce bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if uid, ok := r.nonces[t.Nonce]; ok && t.Nonce != "" {
		return uid, netip.Addr{}, true
	}
	if m := r.machines[r.interfaces[t.Interface]]; m != nil && t.Interface != "" {
		return m.wall.Spec.Owner.UID, m.wall.Spec.BundleIP, false
	}
	return "", netip.Addr{}, false
}

// leaks acts on leaks: it kills the machine, writes the evidence, and notifies
// the subscriber, in that order.
type leaks struct {
	Options
	watched *registry
	// requestProof requests another proof of a Bottle's walls.
	requestProof func(uid string)

	killing sync.WaitGroup // running killLeaked calls
}

// onHit judges a hit on a canary and acts on it.
func (l *leaks) onHit(t host.CanaryHit) {
	uid, what := l.judge(t)
	l.Metrics.hit(what)
	switch what {
	case foundLeak:
		l.onLeak(uid, fmt.Sprintf("%s to %s, a canary of the node", t.Proto, t.Local))
	case foundBundle:
		l.requestProof(uid)
	case foundNode:
		for _, uid := range l.watched.uids() {
			l.requestProof(uid)
		}
	}
}

// shownPaths bounds the targets that a condition's message lists.
const shownPaths = 3

// onConfession records a leak if a prober reports that it reached targets that
// must not be reached.
func (l *leaks) onConfession(uid string, reached []probe.Target) {
	var paths []string
	for _, t := range reached[:min(len(reached), shownPaths)] {
		paths = append(paths, t.String()+", as the prober reports")
	}
	if more := len(reached) - shownPaths; more > 0 {
		paths = append(paths, fmt.Sprintf("and %d more", more))
	}
	l.onLeak(uid, strings.Join(paths, "; "))
}

// onLeak records a leak and kills the machine, which stays down until the
// Bottle's request changes. path describes what was reached. onLeak does not
// wait for the kill, because a kill waits for the process to end.
func (l *leaks) onLeak(uid, path string) {
	l.watched.mu.Lock()
	defer l.watched.mu.Unlock()
	m := l.watched.machines[uid]
	if m == nil || m.leak != nil {
		return
	}
	m.leak = &state.Leak{Time: l.Clock.Now().UTC().Truncate(time.Second), Path: path, Smolvm: m.wall.Smolvm, Backend: m.wall.Backend}
	m.unwritten = true
	spec := m.wall.Spec
	l.Metrics.leaked()
	l.killing.Go(func() { l.killLeaked(m, spec, path) })
}

// killLeaked kills the machine before it does anything else, because the leak
// goes on until then.
func (l *leaks) killLeaked(m *machine, spec host.WallSpec, path string) {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := l.Machines.KillMachine(ctx, spec.Owner.ID()); err != nil {
		l.Log.Error(err, "A leaking machine could not be killed; the guard will try again", "machine", spec.Owner.ID())
	}
	l.Log.Info("A machine leaked and was killed", "machine", spec.Owner.ID(), "path", path)
	if folder, err := l.State.Folder(spec.Owner.UID); err == nil {
		m.lock.Lock()
		l.writeEvidence(m, folder)
		m.lock.Unlock()
	}
	l.watched.notify(spec.Owner.UID)
}

// writeEvidence writes a leak that is not on disk yet. The guard tries again in
// every scan. The caller holds m.lock.
func (l *leaks) writeEvidence(m *machine, folder state.Folder) {
	l.watched.mu.Lock()
	leak, unwritten := m.leak, m.unwritten
	l.watched.mu.Unlock()
	if leak == nil || !unwritten || folder.WriteLeak(*leak) != nil {
		return
	}
	l.watched.mu.Lock()
	defer l.watched.mu.Unlock()
	if m.leak == leak { // unchanged since it was read
		m.unwritten = false
	}
}

// report implements Enforcement.Leak.
func (l *leaks) report(uid string, request Request) *state.Leak {
	l.watched.mu.Lock()
	defer l.watched.mu.Unlock()
	m := l.watched.machines[uid]
	if m == nil || m.leak == nil {
		return nil
	}
	if m.leak.ReportedFor == "" {
		reported := *m.leak
		reported.ReportedFor = request.String()
		m.leak, m.unwritten = &reported, true
	}
	if m.leak.ReportedFor != request.String() {
		return nil
	}
	return m.leak
}

// has reports whether the Bottle has a leak, reported or not.
func (l *leaks) has(uid string) bool {
	l.watched.mu.Lock()
	defer l.watched.mu.Unlock()
	m := l.watched.machines[uid]
	return m != nil && m.leak != nil
}

// release drops a leak that was reported for another request. The machine must
// be down, and the caller holds m.lock.
func (l *leaks) release(m *machine, folder state.Folder, request Request) error {
	l.watched.mu.Lock()
	leak := m.leak
	l.watched.mu.Unlock()
	if leak == nil || leak.ReportedFor == "" || leak.ReportedFor == request.String() {
		l.writeEvidence(m, folder)
		return nil
	}
	if err := folder.RemoveLeak(); err != nil {
		return err
	}
	l.watched.mu.Lock()
	defer l.watched.mu.Unlock()
	m.leak, m.unwritten = nil, false
	return nil
}
