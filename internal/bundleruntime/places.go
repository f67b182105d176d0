// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/vault"
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
	mu       sync.Mutex
	known    map[string]Place   // by UID
	asking   map[string]*answer // by UID; calls that are under way
	asked    uint64             // counts the calls of Locate
	answered map[string]uint64  // by UID: the call that known is from
	started  map[string]string  // by UID: the Pod of the last Parent
}

// NewPlaces returns what the state directory records. It asks nobody.
func NewPlaces(o PlacesOptions) *Places {
	return &Places{PlacesOptions: o, known: map[string]Place{}, asking: map[string]*answer{}, answered: map[string]uint64{}, started: map[string]string{}}
}

// Refresh asks the container runtime where the Bottle's Pod is, and records it. Its errors
// are those of PlacesOptions.Locate.
func (p *Places) Refresh(ctx context.Context, owner host.Owner) error {
	_, err := p.refresh(ctx, owner)
	return err
}

// refresh returns the newest answer: that of a later call, if that was answered first.
func (p *Places) refresh(ctx context.Context, owner host.Owner) (Place, error) {
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
	before, folder, err := p.recorded(owner.UID)
	if err != nil {
		return Place{}, err
	}
	if p.answered[owner.UID] > call {
		return before, nil
	}
	// With another Pod, the machine ended: its network was not replaced.
	now.Replaced = before.UID == now.UID && (before.Replaced || before.NetNSID != (host.NetNS{}) && before.NetNSID != now.NetNSID)
	if now.Pod != before.Pod {
		if err := folder.WritePod(now.Pod); err != nil {
			return Place{}, err
		}
	}
	p.known[owner.UID], p.answered[owner.UID] = now, call
	return now, nil
}

// recorded returns what is known of the Bottle's Pod; zero for nothing. The caller holds
// p.mu.
func (p *Places) recorded(uid string) (Place, state.Folder, error) {
	folder, err := p.State.Folder(uid)
	if err != nil {
		return Place{}, folder, err
	}
	if place, ok := p.known[uid]; ok {
		return place, folder, nil
	}
	pod, err := folder.Pod()
	if pod == nil || errors.Is(err, state.ErrBadRecord) { // the container runtime knows better
		return Place{}, folder, nil
	}
	if err != nil {
		return Place{}, folder, err
	}
	p.known[uid] = Place{Pod: *pod}
	return p.known[uid], folder, nil
}

// NetNS returns the file and the identity of the network namespace of the Bottle's Pod. It
// asks the container runtime only if the recorded namespace is gone, and waits only
// briefly: the guard, which asks for all Bottles, must not hang with the container runtime.
// ErrNotFound means that the Pod has none, ErrUnavailable that this is not known yet.
func (p *Places) NetNS(ctx context.Context, owner host.Owner) (path string, id host.NetNS, err error) {
	p.mu.Lock()
	place, _, err := p.recorded(owner.UID)
	p.mu.Unlock()
	if err != nil {
		return "", id, err
	}
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

// ask is refresh, but waits only briefly. At most one call for each Pod is under way.
func (p *Places) ask(ctx context.Context, owner host.Owner) (Place, error) {
	p.mu.Lock()
	a := p.asking[owner.UID]
	if a == nil {
		a = &answer{done: make(chan struct{})}
		p.asking[owner.UID] = a
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
			defer cancel()
			a.place, a.err = p.refresh(ctx, owner)
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
func (p *Places) BundleOf(uid string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[uid].Bundle
}

// PodOf returns the UID of the Bottle's Pod; "" if it is not known.
func (p *Places) PodOf(uid string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[uid].UID
}

// TakeReplaced reports whether the network namespace of the Bottle's Pod was replaced by
// another one since the last call.
func (p *Places) TakeReplaced(uid string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	place, folder, err := p.recorded(uid)
	if err != nil || !place.Replaced {
		return false, err
	}
	place.Replaced = false
	if err := folder.WritePod(place.Pod); err != nil {
		return false, err
	}
	p.known[uid] = place
	return true, nil
}

// Forget drops what is known about a Bottle that has left the node.
func (p *Places) Forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, uid)
	delete(p.answered, uid)
	delete(p.started, uid)
}

// Secrets returns the folder for what only the bundle may read. It implements
// vault.Pods.Dir.
func (p *Places) Secrets(uid string) (string, error) {
	return p.volume(uid, func(place Place) string { return place.Secrets })
}

func (p *Places) volume(uid string, which func(Place) string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	place, _, err := p.recorded(uid)
	if err == nil && which(place) == "" {
		err = fmt.Errorf("bottle %s: its Pod has no such volume on this node: %w", uid, host.ErrNotFound)
	}
	return filepath.Clean(which(place)), err
}

// Publish copies rules, and the upstream authorities from the Bottle's folder, into the Pod of
// a built-in bundle. On docker it does nothing, because the bundle reads the folder itself. It
// makes no calls to other programs and needs no disk space. Without a Pod it does nothing
// either: a new Pod starts without rules, so its bundle denies everything until the next pass.
func (p *Places) Publish(uid string, rules []byte) error {
	if kind, err := p.Choices.Of(uid); err != nil || kind != Pod {
		return err
	}
	volume := p.rules()
	ctx := context.Background() // nothing below waits
	write := func(name string, data []byte) error {
		err := volume.WriteFile(ctx, uid, name, data)
		if errors.Is(err, host.ErrNotFound) {
			return nil
		}
		return err
	}
	err := write(bundleimage.RulesFile, rules)
	folder, folderErr := p.State.Folder(uid)
	if folderErr != nil {
		return errors.Join(err, folderErr)
	}
	switch ca, caErr := folder.UpstreamCA(); {
	case caErr != nil:
		return errors.Join(err, caErr)
	case ca == nil:
		return errors.Join(err, volume.RemoveFile(ctx, uid, bundleimage.UpstreamCAFile))
	default:
		return errors.Join(err, write(bundleimage.UpstreamCAFile, ca))
	}
}

// Published returns the rules that Publish gave to a Bottle's bundle; nil for none. copied is
// false if the bundle reads them in the Bottle's folder.
func (p *Places) Published(uid string) (rules []byte, copied bool) {
	if kind, err := p.Choices.Of(uid); err != nil || kind != Pod {
		return nil, false
	}
	rules, err := p.rules().ReadFile(context.Background(), uid, bundleimage.RulesFile)
	if err != nil {
		return nil, true // nobody can say that it allows anything
	}
	return rules, true
}

// rules returns the volumes from which the bundles read their rules.
func (p *Places) rules() vault.Pods {
	return vault.Pods{Dir: func(uid string) (string, error) {
		return p.volume(uid, func(place Place) string { return place.Rules })
	}}
}
