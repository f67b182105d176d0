// SPDX-License-Identifier: Apache-2.0

// Package image is the node's store of image archives: it pulls OCI images
// with go-containerregistry, takes archives and OCI layouts from a folder, and
// images from the node's Docker Engine, and keeps each as one immutable file
// in docker-save form, DIGEST.tar, that smolvm makes machines from. It shares
// one pull among all who wait for it, backs off as a kubelet does, and removes
// what nobody used for long when the disk fills up.
//
// Who may have a private image: whoever the registry gives it to. The store
// notes for which credentials a registry has accepted a reference, as
// fingerprints with a key of its own, and asks the registry for any others,
// also when the image is on the node already. It is stricter there than a
// kubelet without KubeletEnsureSecretPulledImages.
//
// The package does not run smolvm or docker, does not write status or Events,
// and does not know Kubernetes: secrets come as bytes.
package image

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// Store is host.Images.
type Store struct {
	o       Options
	mirrors map[string][]string // by registry
	plain   map[string]bool     // HOST[:PORT] without TLS
	// retryWait is what is waited before a broken blob is asked for again.
	retryWait time.Duration
	unlink    func(path string) error // of an archive that was collected

	// ctx is of everything that goes on behind Get; it ends with Close.
	ctx          context.Context
	cancel       context.CancelFunc
	background   sync.WaitGroup
	slots        chan struct{} // one per pull at a time
	resolveSlots chan struct{} // one per job that asks what is to be pulled

	renameMu sync.Mutex // archives come and go under it
	saveMu   sync.Mutex // of the index

	mu         sync.Mutex
	index      *index
	jobs       map[string]*job
	fetches    map[string]*fetch
	failures   map[string]*failure
	requesters map[string]*requester // by UID
	known      map[string]knownFile  // by canonical reference

	short shortage

	watchersMu sync.Mutex
	nextID     int
	watchers   map[int]func(uid string)
}

var _ host.Images = (*Store)(nil)

// New opens the store in o.Dir and removes what an earlier one left half
// written there: no other may use the folder. Close ends it.
func New(o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	mirrors, err := mirrorsOf(o.Mirrors)
	if err != nil {
		return nil, err
	}
	s := &Store{
		o: o, mirrors: mirrors, plain: map[string]bool{}, retryWait: 500 * time.Millisecond,
		slots: make(chan struct{}, o.MaxPulls), resolveSlots: make(chan struct{}, max(minResolves, resolvesPerPull*o.MaxPulls)),
		jobs: map[string]*job{}, fetches: map[string]*fetch{}, failures: map[string]*failure{},
		requesters: map[string]*requester{}, known: map[string]knownFile{}, watchers: map[int]func(string){},
		short: shortage{wake: make(chan struct{}, 1)}, unlink: os.Remove,
	}
	for _, registry := range o.PlainHTTP {
		s.plain[registry] = true
	}
	// A mistake in the file shows now rather than in every pull.
	if _, err := s.newTransport(); err != nil {
		return nil, err
	}
	if err := s.sweepTemporaries(); err != nil {
		return nil, err
	}
	if s.index, err = loadIndex(o.Dir); err != nil {
		o.Log.Info("Began a new index of images", "reason", err.Error())
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.measure()
	return s, nil
}

// Close ends the pulls under way, which leave nothing behind, and saves what
// the store remembers.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock() // no job begins any more
	s.background.Wait()
	return s.saveIndex()
}

// WatchImages implements host.Images.
func (s *Store) WatchImages(ctx context.Context, changed func(uid string)) error {
	s.watchersMu.Lock()
	id := s.nextID
	s.nextID++
	s.watchers[id] = changed
	s.watchersMu.Unlock()
	changed("")
	<-ctx.Done()
	s.watchersMu.Lock()
	delete(s.watchers, id)
	s.watchersMu.Unlock()
	return ctx.Err()
}

// tell calls every watcher for every Bottle; no lock is held meanwhile.
func (s *Store) notify(uids []string) {
	s.watchersMu.Lock()
	watchers := slices.Collect(maps.Values(s.watchers))
	s.watchersMu.Unlock()
	for _, uid := range uids {
		for _, changed := range watchers {
			changed(uid)
		}
	}
}

var errClosed = errors.New("the image store is closed")
