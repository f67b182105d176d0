// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Used is what must stay.
type Used struct {
	// Digests are the images (sha256:HEX) of all Bottles of the node, whether
	// their machines run or not.
	Digests map[string]bool
	// Archives are the SHA-256 of the archives that machines were made from,
	// anybody's: HEX, or as smolvm names them, local:HEX. A machine reads its
	// archive from smolvm's cache at a start.
	Archives map[string]bool
}

// Collected says what Collect removed.
type Collected struct {
	Archives int // of the store
	Cached   int // of smolvm's caches
	Bytes    int64
	// Short is how many bytes more should have gone, and are in use or young.
	Short int64
}

// candidate is a file of the store that might go.
type candidate struct {
	path   string
	digest string
	used   time.Time
	size   int64
	info   fs.FileInfo
}

// collection is one pass of Collect. What goes wrong for one thing does not
// keep the others from being looked at.
type collection struct {
	Collected
	digests     map[string]bool // as of Used
	machines    map[string]bool // by SHA-256 alone
	cache       *cache
	wanted      int64   // how many bytes
	diskChecked bool    // at the disk
	errs        []error // the first ones
	failed      int     // of all
}

// maxTold bounds the text of a pass in which nothing could be removed.
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

// Collect removes the archives that were not used for longest, with their
// entries in smolvm's cache, which are links to the same bytes: when the
// filesystem is filled to the high watermark, until it is down to the low one;
// and when a pull was refused, until that has room, if all that may go makes
// so much. Nothing goes that is in use, was used within the minimum age, or is
// linked to what a machine was made from. Entries of the cache that belong to
// neither an archive nor a machine go whatever the watermark, and so does what
// smolvm unpacked of artifacts.
//
// used is asked once; where it fails nothing is removed. All other failures
// keep what they are about, and are returned when the rest is done.
func (s *Store) Collect(ctx context.Context, used func(ctx context.Context) (Used, error)) (Collected, error) {
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
	s.measure()
	c.addError(s.saveIndex())
	s.o.Metrics.collect(c)
	return c.Collected, errors.Join(c.err(), ctx.Err())
}

func (s *Store) collect(ctx context.Context, c *collection) {
	cache, err := s.openCache()
	if err == nil {
		defer cache.close()
		c.cache = cache
		s.collectArchives(ctx, c)
		s.sweepCache(c)
	} else { // which archives are linked to what machines were made from is not known
		c.addError(err)
	}
	s.sweepUnpacked(ctx, c)
	c.Short = max(0, c.wanted-c.Bytes)
	if c.Archives+c.Cached > 0 {
		c.addError(s.retryRefused())
	}
}

func (s *Store) collectArchives(ctx context.Context, c *collection) {
	archives, err := s.listArchives()
	c.addError(err)
	archives = slices.DeleteFunc(archives, func(a candidate) bool { return !s.removable(c, a) })
	excess, err := s.excess(c, archives)
	c.addError(err)
	for _, a := range archives {
		if c.Bytes >= excess || ctx.Err() != nil {
			break
		}
		s.collectArchive(c, a)
	}
}

func (s *Store) removable(c *collection, a candidate) bool {
	return !c.digests[a.digest] && s.o.Clock.Since(a.used) >= s.o.GCMinAge &&
		!slices.ContainsFunc(c.cache.linksTo(a.info), func(sum string) bool { return c.machines[sum] })
}

func (s *Store) collectArchive(c *collection, a candidate) {
	renamed, err := s.detach(a)
	if renamed == "" {
		c.addError(err)
		return
	}
	c.Archives++
	if err := s.unlink(renamed); err != nil { // else swept at the next start
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

// excess is how many bytes are to go of the archives that may. It is less than
// should go where all of them are known to make no room for a refused pull: the
// store is not to be emptied for nothing.
func (s *Store) excess(c *collection, removable []candidate) (int64, error) {
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
	shortfall := s.short.shortfall(d, max(0, s.o.Reserve), s.o.Clock.Now())
	c.wanted, c.diskChecked = max(excess, shortfall.least), true
	if shortfall.least <= available {
		excess = max(excess, shortfall.likely)
	}
	return excess, nil
}

// listArchives returns the files of the store, the least recently used first;
// with an error, those that could be looked at.
func (s *Store) listArchives() ([]candidate, error) {
	dir, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder of images: %w", err)
	}
	var out []candidate
	var errs []error
	for _, e := range dir {
		name := storedName.FindStringSubmatch(e.Name())
		if name == nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("folder of images: %w", err))
			continue
		}
		digest := "sha256:" + name[1]
		out = append(out, candidate{path: filepath.Join(s.o.Dir, e.Name()), digest: digest, used: s.lastUse(digest, info), size: info.Size(), info: info})
	}
	slices.SortFunc(out, func(a, b candidate) int {
		if c := a.used.Compare(b.used); c != 0 {
			return c
		}
		return strings.Compare(a.digest, b.digest)
	})
	return out, errors.Join(errs...)
}

// lastUse is as remembered, else when the archive was written.
func (s *Store) lastUse(digest string, info fs.FileInfo) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.index.Images[digest]; r != nil {
		return r.Used
	}
	return info.ModTime()
}

// detach takes the archive out of the store unless it was used of late, which
// it may have been since it was listed. It only gives it another name, for
// unlinking gigabytes takes seconds on some filesystems, in which nobody could
// get an image. The name is of those that are swept at a start.
func (s *Store) detach(a candidate) (renamed string, err error) {
	s.renameMu.Lock()
	defer s.renameMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	used := a.info.ModTime()
	if r := s.index.Images[a.digest]; r != nil {
		used = r.Used
	}
	if s.o.Clock.Since(used) < s.o.GCMinAge {
		return "", nil
	}
	renamed = filepath.Join(s.o.Dir, tempPrefix+filepath.Base(a.path))
	if err := os.Rename(a.path, renamed); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.index.forget(a.digest)
			return "", nil
		}
		return "", fmt.Errorf("remove image %s: %w", a.digest, err)
	}
	s.index.forget(a.digest)
	return renamed, nil
}
