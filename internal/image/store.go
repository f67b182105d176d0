// SPDX-License-Identifier: Apache-2.0

// Package image is the node's store of image archives. It pulls OCI images with
// go-containerregistry, takes archives and OCI layouts from a folder, and takes
// images from the node's Docker Engine. It keeps each image as one immutable
// file in docker-save form, DIGEST.flat.tar, from which smolvm makes machines.
// The file has a single layer, which internal/flatten makes of the image's. It
// shares one pull among all who wait for it, backs off as a kubelet does, and
// removes the least recently used images when the disk fills up.
//
// A private image is available to whoever the registry gives it to. The store
// records for which credentials a registry has accepted a reference, as
// fingerprints with a key of its own. For any other credentials it asks the
// registry, even if the image is already on the node. In this it is stricter
// than a kubelet without KubeletEnsureSecretPulledImages.
//
// The package does not run smolvm or docker, does not write status or Events,
// and does not know Kubernetes: secrets come as bytes.
package image

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/fairqueue"
	"botbottle.dev/bottle-operator/internal/host"
)

// Store implements host.Images.
type Store struct {
	o       Options
	mirrors map[string][]string // by registry
	plain   map[string]bool     // HOST[:PORT] without TLS
	// retryWait is the wait before the first retry of a broken blob.
	retryWait time.Duration
	unlink    func(path string) error // removes an archive that was collected
	// proxy returns the proxy for a request to a registry, nil for none.
	proxy func(*http.Request) (*url.URL, error)

	// ctx is the context of all background work. Close cancels it.
	ctx          context.Context
	cancel       context.CancelFunc
	background   sync.WaitGroup
	slots        *fairqueue.Queue // of pulls
	resolveSlots *fairqueue.Queue // of jobs that resolve a reference

	renameMu sync.Mutex // guards adding and removing archives
	saveMu   sync.Mutex // guards writing the index

	mu         sync.Mutex
	index      *index
	jobs       map[string]*job
	fetches    map[string]*fetch
	failures   map[string]*failure
	requesters map[string]*requester // by UID
	known      map[string]knownFile  // by canonical reference

	short    shortage
	partials *partials

	watchersMu sync.Mutex
	nextID     int
	watchers   map[int]func(uid string)
}

var _ host.Images = (*Store)(nil)

// New opens the store in o.Dir and removes the half-written files of an earlier
// store, except for the layers that the next pulls can go on with. No other store may use the folder. Close closes the store.
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
		slots: newSlots(o.MaxPulls), resolveSlots: newSlots(max(minResolves, resolvesPerPull*o.MaxPulls)),
		jobs: map[string]*job{}, fetches: map[string]*fetch{}, failures: map[string]*failure{},
		requesters: map[string]*requester{}, known: map[string]knownFile{}, watchers: map[int]func(string){},
		short: shortage{wake: make(chan struct{}, 1)}, unlink: os.Remove, proxy: http.ProxyFromEnvironment,
	}
	s.partials = newPartials(o.Dir, o.Clock)
	for _, registry := range o.PlainHTTP {
		s.plain[registry] = true
	}
	s.warnOfRefused()
	// Report an invalid CA file now rather than in every pull.
	if _, err := s.newTransport(); err != nil {
		return nil, err
	}
	if err := errors.Join(s.sweepTemporaries(), s.partials.sweep()); err != nil {
		return nil, err
	}
	if s.index, err = loadIndex(o.Dir); err != nil {
		o.Log.Info("Started a new index of images", "reason", err.Error())
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.measure()
	s.background.Go(func() { s.remakeArchives(s.ctx) })
	return s, nil
}

// Close cancels the pulls under way, which leave nothing behind but the layers that
// they have fetched, and saves the index.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock() // no new job can start after this
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

// notify calls every watcher for every Bottle. The caller must not hold a lock.
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
