// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// PlacesOptions are the options of NewPlaces. All are required.
type PlacesOptions struct {
	State   *state.Dir
	Choices *Choices
	// Locate asks the container runtime for the Bottle's Pod. The volumes are those of that
	// same Pod; none if it has none. It returns ErrNotFound, ErrConflict and ErrUnavailable
	// as criruntime.Runtime.Pod does.
	Locate func(ctx context.Context, owner host.Owner) (Place, error)
	// Identify returns the identity of the network namespace of a file.
	Identify func(path string) (host.NetNS, error)
}

// Places knows where the Bottles' Pods are. It records that in their folders: as long as a
// recorded network namespace exists, it is the Pod's, whether the container runtime
// answers or not.
type Places struct {
	PlacesOptions
	// mu is held only while memory is read or changed: the guard, and what narrows a guest's
	// reach, wait for it.
	mu       sync.Mutex
	known    map[string]Place     // by UID
	stored   map[string]state.Pod // by UID: what the folder has of known
	asking   map[string]*answer   // by UID; calls that are under way
	asked    uint64               // counts the calls of Locate
	answered map[string]uint64    // by UID: the call that known is from

	writing sync.Mutex // held while a file is written; taken before mu
}

// NewPlaces returns what the state directory records. It asks nobody.
func NewPlaces(o PlacesOptions) (*Places, error) {
	p := &Places{PlacesOptions: o, known: map[string]Place{}, stored: map[string]state.Pod{}, asking: map[string]*answer{}, answered: map[string]uint64{}}
	owners, err := o.State.Owners()
	if err != nil {
		return nil, err
	}
	for _, owner := range owners {
		folder, err := o.State.Folder(owner.UID)
		if err != nil {
			return nil, err
		}
		// If the file cannot be read, the container runtime knows better.
		if pod, err := folder.Pod(); err == nil && pod != nil {
			p.known[owner.UID], p.stored[owner.UID] = Place{Pod: *pod}, *pod
		}
	}
	return p, nil
}

// Refresh asks the container runtime where the Bottle's Pod is, and records it. Its errors
// are those of PlacesOptions.Locate, and that of a failed write. After a failed write, the
// next Refresh writes again.
func (p *Places) Refresh(ctx context.Context, owner host.Owner) error {
	if _, err := p.locate(ctx, owner); err != nil {
		return err
	}
	return p.store(owner.UID)
}

// locate returns the newest answer: that of a later call, if that was answered first. It
// writes no file, so that the guard need not wait for the disk.
func (p *Places) locate(ctx context.Context, owner host.Owner) (Place, error) {
	p.mu.Lock()
	p.asked++
	call := p.asked
	p.mu.Unlock()
	now, err := p.Locate(ctx, owner)
	if err != nil {
		return Place{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.known[owner.UID]
	if p.answered[owner.UID] > call {
		return before, nil
	}
	// With another Pod, the machine ended: its network was not replaced.
	now.Replaced = before.UID == now.UID && (before.Replaced || before.NetNSID != (host.NetNS{}) && before.NetNSID != now.NetNSID)
	now.Started = before.Started
	p.known[owner.UID], p.answered[owner.UID] = now, call
	return now, nil
}

// store writes the newest of what is known about the Bottle's Pod to its folder, unless it
// is there.
func (p *Places) store(uid string) error {
	if _, lacks := p.unstored(uid); !lacks {
		return nil
	}
	folder, err := p.State.Folder(uid)
	if err != nil {
		return err
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	pod, lacks := p.unstored(uid)
	if !lacks {
		return nil // somebody else has written it meanwhile
	}
	if err := folder.WritePod(pod); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.known[uid]; known {
		p.stored[uid] = pod
	}
	return nil
}

// unstored returns what is known about the Bottle's Pod, and whether its folder lacks that.
func (p *Places) unstored(uid string) (pod state.Pod, lacks bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	place, known := p.known[uid]
	return place.Pod, known && place.Pod != p.stored[uid]
}

// place returns what is known about the Bottle's Pod; zero for nothing.
func (p *Places) place(uid string) Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[uid]
}

// NetNS returns the file and the identity of the network namespace of the Bottle's Pod. It
// asks the container runtime only if the recorded namespace is gone, and waits only
// briefly: the guard, which asks for all Bottles, must not hang with the container runtime.
// ErrNotFound means that the Pod has none, ErrUnavailable that this is not known yet.
func (p *Places) NetNS(ctx context.Context, owner host.Owner) (path string, id host.NetNS, err error) {
	place := p.place(owner.UID)
	// What is in /proc belongs to a process, whose number may come to mean another one.
	if place.NetNS != "" && !strings.HasPrefix(place.NetNS, "/proc/") {
		if now, err := p.Identify(place.NetNS); err == nil && now == place.NetNSID {
			return place.NetNS, place.NetNSID, nil
		}
	}
	if place, err = p.ask(ctx, owner); err != nil {
		return "", id, err
	}
	return place.NetNS, place.NetNSID, nil
}

const (
	// patience is how long NetNS waits for the container runtime.
	patience = 100 * time.Millisecond
	// answerTimeout bounds a call that goes on after that.
	answerTimeout = 30 * time.Second
)

// answer is what the container runtime says of one Pod.
type answer struct {
	done  chan struct{} // closed when the rest is set
	place Place
	err   error
}

// ask is locate, but waits only briefly. At most one call for each Pod is under way.
func (p *Places) ask(ctx context.Context, owner host.Owner) (Place, error) {
	p.mu.Lock()
	a := p.asking[owner.UID]
	if a == nil {
		a = &answer{done: make(chan struct{})}
		p.asking[owner.UID] = a
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
			defer cancel()
			a.place, a.err = p.locate(ctx, owner)
			p.mu.Lock()
			delete(p.asking, owner.UID)
			p.mu.Unlock()
			close(a.done)
		}()
	}
	p.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-a.done:
		return a.place, a.err
	case <-ctx.Done():
		return Place{}, ctx.Err()
	case <-late.C:
		return Place{}, fmt.Errorf("the Pod of %s: the container runtime has not answered yet: %w", owner.ID(), host.ErrUnavailable)
	}
}

// BundleOf returns the digest of the parts of spec.bundle that the Bottle's Pod was made
// from; "" if that is not known.
func (p *Places) BundleOf(uid string) string { return p.place(uid).Bundle }

// PodOf returns the UID of the Bottle's Pod; "" if it is not known.
func (p *Places) PodOf(uid string) string { return p.place(uid).UID }

// TakeReplaced reports whether the network namespace of the Bottle's Pod was replaced by
// another one since the last call. The answer holds even if there is an error: then a later
// agent may give it again.
func (p *Places) TakeReplaced(uid string) (bool, error) {
	p.mu.Lock()
	place := p.known[uid]
	replaced := place.Replaced
	if replaced {
		place.Replaced = false
		p.known[uid] = place
	}
	p.mu.Unlock()
	return replaced, p.store(uid)
}

// Forget drops what is known about a Bottle that has left the node.
func (p *Places) Forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, uid)
	delete(p.stored, uid)
	delete(p.answered, uid)
}
