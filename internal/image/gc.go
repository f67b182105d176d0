// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Used says what must stay.
type Used struct {
	// Digests are the images (sha256:HEX) of all Bottles of the node, whether
	// their machines run or not.
	Digests map[string]bool
	// Archives are the SHA-256 of the archives that machines were made from,
	// whoever owns the machines: HEX, or local:HEX, as smolvm names them. A
	// machine reads its archive from smolvm's cache when it starts.
	Archives map[string]bool
}

// Collected says what Collect removed.
type Collected struct {
	Archives int // from the store
	Cached   int // from smolvm's caches
	Partial  int // interrupted pulls whose layers were removed
	Bytes    int64
	// Short is how many more bytes should have been removed, but are in use or
	// too young.
	Short int64
}

// remover removes what is no longer needed when the disk fills up.
type remover struct {
	o *Options
	*catalog
	*ledger
	partials *partials
	short    shortage
	unlink   func(path string) error // removes an archive that was taken out of the store
}

// collection is one pass of Collect. An error about one item does not stop the
// pass.
type collection struct {
	Collected
	digests     map[string]bool // from Used
	machines    map[string]bool // by SHA-256, without a prefix
	cache       *cache
	wanted      int64   // bytes that should be removed
	diskChecked bool    // the disk was checked
	errs        []error // the first ones
	failed      int     // number of all errors
}

// maxErrs bounds the number of errors that one pass returns.
const maxErrs = 8

func (c *collection) addError(err error) {
	if err == nil {
		return
	}
	c.failed++
	if len(c.errs) < maxErrs {
		c.errs = append(c.errs, err)
	}
}

func (c *collection) err() error {
	if more := c.failed - len(c.errs); more > 0 {
		return errors.Join(append(c.errs, fmt.Errorf("and %d more", more))...)
	}
	return errors.Join(c.errs...)
}

// Collect removes the least recently used archives, with their entries in
// smolvm's cache, which are links to the same bytes. It does so in two cases.
// When the use of the filesystem reaches the high watermark, it removes
// archives until the use is down to the low watermark. When a pull was refused,
// it removes archives until there is room for that pull, provided that all
// removable archives together make enough room. It keeps every archive that is
// in use, was used within the minimum age, or is linked to the archive of a
// machine. Regardless of the watermark, it also removes the cache entries that
// belong to neither an archive nor a machine, and the artifacts that smolvm
// unpacked and no longer needs.
//
// It calls used once; if used fails, it removes nothing. If anything else
// fails, the item concerned stays, and the error is returned after the rest is
// done.
func (s *remover) Collect(ctx context.Context, used func(ctx context.Context) (Used, error)) (Collected, error) {
	c := &collection{machines: map[string]bool{}}
	in, err := used(ctx)
	if err == nil {
		c.digests = in.Digests
		for sum, ok := range in.Archives {
			c.machines[strings.TrimPrefix(sum, "local:")] = ok
		}
		s.collect(ctx, c)
	} else {
		c.addError(fmt.Errorf("images in use: %w", err))
	}
	s.o.Metrics.measure(s.files, s.partials)
	c.addError(s.saveIndex())
	s.o.Metrics.collect(c)
	return c.Collected, errors.Join(c.err(), ctx.Err())
}

func (s *remover) collect(ctx context.Context, c *collection) {
	cache, err := s.openCache()
	if err == nil {
		defer cache.close()
		c.cache = cache
		s.collectArchives(ctx, c)
		s.sweepCache(c)
	} else { // it is not known which archives are linked to those of machines
		c.addError(err)
	}
	s.sweepUnpacked(ctx, c)
	c.Short = max(0, c.wanted-c.Bytes)
	if c.Archives+c.Cached+c.Partial > 0 {
		c.addError(s.retryRefused())
	}
}

func (s *remover) collectArchives(ctx context.Context, c *collection) {
	archives, err := s.listArchives()
	c.addError(err)
	archives = slices.DeleteFunc(archives, func(a candidate) bool { return !s.removable(c, a) })
	layers, err := s.partials.idle()
	c.addError(err)
	excess, err := s.excess(c, archives, layers)
	c.addError(err)
	for _, k := range layers {
		s.collectLayers(c, k, excess)
	}
	for _, a := range archives {
		if c.Bytes >= excess || ctx.Err() != nil {
			break
		}
		s.collectArchive(c, a)
	}
}

// collectLayers removes the layers of an interrupted pull, if the disk is too full or
// no attempt came for too long. Layers go before archives, because nothing was made from
// them yet.
func (s *remover) collectLayers(c *collection, k kept, excess int64) {
	if c.Bytes >= excess && !s.partials.expired(k) {
		return
	}
	removed, err := s.partials.remove(k)
	c.addError(err)
	if removed {
		c.Partial++
		c.Bytes += k.size
	}
}

func (s *remover) removable(c *collection, a candidate) bool {
	return !c.digests[a.digest] && s.o.Clock.Since(a.used) >= s.o.GCMinAge &&
		!slices.ContainsFunc(c.cache.linksTo(a.info), func(sum string) bool { return c.machines[sum] })
}

func (s *remover) collectArchive(c *collection, a candidate) {
	renamed, err := s.detach(a, s.o.GCMinAge)
	if renamed == "" {
		c.addError(err)
		return
	}
	c.Archives++
	if err := s.unlink(renamed); err != nil { // otherwise removed at the next start
		c.addError(fmt.Errorf("remove image %s: %w", a.digest, err))
		return
	}
	for _, sum := range c.cache.linksTo(a.info) {
		if err := c.cache.remove(sum); err != nil {
			c.addError(err)
			continue
		}
		c.Cached++
	}
	c.Bytes += a.size
}

// excess returns how many bytes of the removable archives and layers to remove. If
// removing all of them is known not to make room for a refused pull, that pull
// does not count: the store must not be emptied in vain.
func (s *remover) excess(c *collection, removable []candidate, layers []kept) (int64, error) {
	d, err := diskOf(s.o.Dir)
	if err != nil {
		return 0, err
	}
	var excess, available int64
	if d.size > 0 && (d.size-d.free)*100 >= d.size*int64(s.o.GCHigh) {
		excess = max(0, d.size/100*int64(100-s.o.GCLow)-d.free)
	}
	for _, a := range removable {
		available += a.size
	}
	for _, k := range layers {
		available += k.size
	}
	shortfall := s.short.shortfall(d, max(0, s.o.Reserve), s.o.Clock.Now())
	c.wanted, c.diskChecked = max(excess, shortfall.least), true
	if shortfall.least <= available {
		excess = max(excess, shortfall.likely)
	}
	return excess, nil
}
