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

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/vault"
)

// PlacesOptions are the options of NewPlaces. All are required.
type PlacesOptions struct {
	State   *state.Dir
	Choices *Choices
	// Locate asks the container runtime for the Bottle's Pod. It returns ErrNotFound,
	// ErrConflict and ErrUnavailable as criruntime.Runtime.Pod does.
	Locate func(ctx context.Context, owner host.Owner) (Place, error)
	// Folders asks for the folders of the volumes of the Bottle's Pod. It returns
	// ErrNotFound when the Pod has none.
	Folders func(ctx context.Context, owner host.Owner) (rules, secrets string, err error)
	// Identify returns the identity of the network namespace of a file.
	Identify func(path string) (host.NetNS, error)
}

// Places knows where the Bottles' Pods are. It records that in their folders: as long as a
// recorded network namespace exists, it is the Pod's, whether the container runtime
// answers or not.
type Places struct {
	PlacesOptions
	mu     sync.Mutex
	known  map[string]Place   // by UID
	asking map[string]*answer // by UID; calls that are under way
}

// NewPlaces returns what the state directory records. It asks nobody.
func NewPlaces(o PlacesOptions) *Places {
	return &Places{PlacesOptions: o, known: map[string]Place{}, asking: map[string]*answer{}}
}

// Refresh asks the container runtime where the Bottle's Pod is, and records it. Its errors
// are those of PlacesOptions.Locate.
func (p *Places) Refresh(ctx context.Context, owner host.Owner) error {
	_, err := p.refresh(ctx, owner)
	return err
}

func (p *Places) refresh(ctx context.Context, owner host.Owner) (Place, error) {
	now, err := p.Locate(ctx, owner)
	if err != nil {
		return Place{}, err
	}
	now.Rules, now.Secrets, err = p.Folders(ctx, owner)
	if err != nil && !errors.Is(err, host.ErrNotFound) { // ErrNotFound: an image of the user's
		return Place{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before, folder, err := p.recorded(owner.UID)
	if err != nil {
		return Place{}, err
	}
	now.Replaced = before.Replaced || before.NetNSID != (host.NetNS{}) && before.NetNSID != now.NetNSID
	if now.Pod != before.Pod {
		if err := folder.WritePod(now.Pod); err != nil {
			return Place{}, err
		}
	}
	p.known[owner.UID] = now
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

// Parent returns the cgroup in which the machine with this name is to run: that of its
// Bottle's Pod, or "" for the usual one.
func (p *Places) Parent(ctx context.Context, name string) (string, error) {
	owners, err := p.State.Owners()
	if err != nil {
		return "", err
	}
	for _, owner := range owners {
		if owner.Slug == "" || owner.ID() != name {
			continue
		}
		if kind, err := p.Choices.Of(owner.UID); err != nil || kind != Pod {
			return "", err
		}
		place, err := p.refresh(ctx, owner)
		if err == nil && place.Cgroup == "" {
			err = fmt.Errorf("the Pod of %s has no cgroup of the unified hierarchy: %w", name, host.ErrUnavailable)
		}
		return place.Cgroup, err
	}
	return "", nil // a machine of no Bottle, such as the trial's
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

// Publish copies the rules of a Bottle's built-in bundle, and what belongs to them, to
// where the bundle reads them, if it does not read them in the Bottle's folder itself. It
// asks nobody and waits for nothing. Without a Pod it does nothing: a new Pod starts
// without rules, so its bundle denies everything until the next pass publishes them.
func (p *Places) Publish(uid string) error {
	if kind, err := p.Choices.Of(uid); err != nil || kind != Pod {
		return err
	}
	folder, err := p.State.Folder(uid)
	if err != nil {
		return err
	}
	files, err := folder.BundleFiles()
	if err != nil {
		return err
	}
	volume := vault.Pods{Dir: func(uid string) (string, error) {
		return p.volume(uid, func(place Place) string { return place.Rules })
	}}
	ctx := context.Background() // nothing below waits
	var errs []error
	for name, data := range files {
		if data == nil {
			errs = append(errs, volume.RemoveFile(ctx, uid, name))
		} else if err := volume.WriteFile(ctx, uid, name, data); !errors.Is(err, host.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
