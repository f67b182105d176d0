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
	"errors"
	"os"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// Store implements host.Images. It parses requests, answers them from the catalog, and
// otherwise starts the job that brings the image.
type Store struct {
	o          *Options
	background sync.WaitGroup

	*catalog  // what is on the node
	*ledger   // who waits for what
	*resolver // slots to resolve references
	*fetcher  // slots to fetch images
	*puller   // registries
	*locals   // the node's own sources
	*remover  // removes what is not needed
}

var _ host.Images = (*Store)(nil)

// New opens the store in o.Dir and removes the half-written files of an earlier
// store, except for the layers that the next pulls can go on with. No other store may
// use the folder. Close closes the store.
func New(o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	registries, err := newRegistries(&o)
	if err != nil {
		return nil, err
	}
	onDisk, layers := &files{dir: o.Dir}, newPartials(o.Dir, o.Clock)
	if err := errors.Join(onDisk.sweepTemporaries(), layers.sweep()); err != nil {
		return nil, err
	}
	catalog, err := openCatalog(onDisk, o.Clock)
	if err != nil {
		o.Log.Info("Started a new index of images", "reason", err.Error())
	}
	ledger := newLedger(&o)
	resolver := &resolver{ledger: ledger, resolveSlots: newSlots(max(minResolves, resolvesPerPull*o.MaxPulls))}
	fetcher := &fetcher{ledger: ledger, disk: onDisk, slots: newSlots(o.MaxPulls)}
	builder := &builder{o: &o, catalog: catalog, partials: layers}
	s := &Store{
		o: &o, catalog: catalog, ledger: ledger, resolver: resolver, fetcher: fetcher,
		puller: &puller{o: &o, registries: registries, builder: builder, ledger: ledger, fetcher: fetcher, resolver: resolver},
		locals: &locals{o: &o, builder: builder, fetcher: fetcher},
		remover: &remover{o: &o, catalog: catalog, ledger: ledger, partials: layers,
			short: shortage{wake: make(chan struct{}, 1)}, unlink: os.Remove},
	}
	o.Metrics.measure(onDisk, layers)
	s.background.Go(func() { builder.remakeArchives(ledger.ctx, ledger.notify) })
	return s, nil
}

// Close cancels the pulls under way, which leave nothing behind but the layers that
// they have fetched, and saves the index.
func (s *Store) Close() error {
	s.end()
	s.background.Wait()
	return s.saveIndex()
}

var errClosed = errors.New("the image store is closed")
