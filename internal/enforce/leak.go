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

// killTimeout bounds the kill of a machine that leaked. It does not depend on
// a caller's context.
const killTimeout = 30 * time.Second

// finding is what a touch of a canary means.
type finding string

const (
	// foundLeak: the machine reached what it must not reach.
	foundLeak finding = "guest"
	// foundBundle: the Bottle's bundle was here. Its walls are proven again.
	foundBundle finding = "bundle"
	// foundNode: a process of the node was here, in which case no source
	// address tells whose it is. All walls are proven again.
	foundNode finding = "node"
	// foundNothing: the touch came from elsewhere.
	foundNothing finding = "elsewhere"
)

// judge is the rule that says what a leak is. A touch of a canary is a leak of
// a Bottle if
//
//   - it carries the nonce of the proof that runs in the Bottle's guest, which
//     only that guest knows; or
//   - it was received on an interface of the Bottle's own network, from any
//     address but the bundle's and the node's own.
//
// Nothing else is a leak. Whoever may send raw packets can forge the source
// address of a datagram, so that an address alone must never stop a machine;
// and of what the node sends to the Bottle's gateway, the kernel says that it
// was received on the Bottle's interface. Anything else is at most a reason for
// another proof.
//
// A proof adds one case, see leaks.confessed: what the prober itself says that
// it reached. Only the guest's own word against itself counts there.
func (l *leaks) judge(t host.Touch) (uid string, what finding) {
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
	// An address that cannot be looked up counts as a guest's.
	if own, err := l.Canaries.IsOwn(from); err == nil && own {
		return "", foundNode
	}
	return uid, foundLeak
}

// loopback is the interface on which a node receives what it sends to itself.
const loopback = "lo"

// origin returns the Bottle that a touch concerns, and its bundle: by the nonce
// of a running proof, or else by the interface that the touch was received on.
func (r *registry) origin(t host.Touch) (uid string, bundle netip.Addr, nonce bool) {
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

// leaks acts on leaks: it kills the machine, keeps the evidence, and notifies
// the subscriber, in that order.
type leaks struct {
	Options
	watched *registry
	// requestProof has the walls of a Bottle proven again soon.
	requestProof func(uid string)

	killing sync.WaitGroup // of machines that leaked
}

// touched judges a touch of a canary and acts on it.
func (l *leaks) touched(t host.Touch) {
	uid, what := l.judge(t)
	l.Metrics.touched(what)
	switch what {
	case foundLeak:
		l.found(uid, fmt.Sprintf("%s to %s, a canary of the node", t.Proto, t.Local))
	case foundBundle:
		l.requestProof(uid)
	case foundNode:
		for _, uid := range l.watched.uids() {
			l.requestProof(uid)
		}
	}
}

const shownPaths = 3 // a condition's message is bounded

// confessed acts on what a prober says that it reached.
func (l *leaks) confessed(uid string, reached []probe.Target) {
	var paths []string
	for _, t := range reached[:min(len(reached), shownPaths)] {
		paths = append(paths, t.String()+", as the prober says")
	}
	if more := len(reached) - shownPaths; more > 0 {
		paths = append(paths, fmt.Sprintf("and %d more", more))
	}
	l.found(uid, strings.Join(paths, "; "))
}

// found kills the machine for good: until the Bottle's request changes. path
// is what was reached, in words. It returns at once, because a kill waits for
// the process to end.
func (l *leaks) found(uid, path string) {
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
	l.killing.Go(func() { l.act(m, spec, path) })
}

// act kills first: until then the leak goes on.
func (l *leaks) act(m *machine, spec host.WallSpec, path string) {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := l.Machines.KillMachine(ctx, spec.Owner.ID()); err != nil {
		l.Log.Error(err, "A machine that leaked could not be killed; the guard tries again", "machine", spec.Owner.ID())
	}
	l.Log.Info("A machine leaked and was killed", "machine", spec.Owner.ID(), "path", path)
	if folder, err := l.State.Folder(spec.Owner.UID); err == nil {
		m.act.Lock()
		l.writeEvidence(m, folder)
		m.act.Unlock()
	}
	l.watched.notify(spec.Owner.UID)
}

// writeEvidence writes a leak that is not on disk yet. The guard tries again
// at every look. m.act is held.
func (l *leaks) writeEvidence(m *machine, folder state.Folder) {
	l.watched.mu.Lock()
	leak, unwritten := m.leak, m.unwritten
	l.watched.mu.Unlock()
	if leak == nil || !unwritten || folder.WriteLeak(*leak) != nil {
		return
	}
	l.watched.mu.Lock()
	defer l.watched.mu.Unlock()
	if m.leak == leak { // not changed meanwhile
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

// has says whether the Bottle has a leak, reported or not.
func (l *leaks) has(uid string) bool {
	l.watched.mu.Lock()
	defer l.watched.mu.Unlock()
	m := l.watched.machines[uid]
	return m != nil && m.leak != nil
}

// release drops a leak that was reported for another request. Its machine is
// down by then; m.act is held.
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
