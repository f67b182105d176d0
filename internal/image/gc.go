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

	"golang.org/x/sys/unix"
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
}

// candidate is a file of the store that might go.
type candidate struct {
	path   string
	digest string
	used   time.Time
	size   int64
	info   fs.FileInfo
}

// Collect removes, when the filesystem is filled to the high watermark, the
// archives that were not used for longest until it is down to the low one,
// with their entries in smolvm's cache, which are links to the same bytes.
// Nothing goes that is in use, was used within the minimum age, or is linked
// to what a machine was made from. Entries of the cache that belong to neither
// an archive nor a machine go whatever the watermark, and so does what smolvm
// unpacked of artifacts.
//
// used is asked once; where it fails nothing is removed.
func (s *Store) Collect(ctx context.Context, used func(ctx context.Context) (Used, error)) (Collected, error) {
	var out Collected
	in, err := used(ctx)
	if err != nil {
		return out, fmt.Errorf("images in use: %w", err)
	}
	machines := map[string]bool{}
	for sum, ok := range in.Archives {
		machines[strings.TrimPrefix(sum, "local:")] = ok
	}
	cache, err := s.openCache()
	if err != nil {
		return out, err
	}
	defer cache.close()
	archives, err := s.listArchives()
	if err != nil {
		return out, err
	}
	excess, err := s.excess()
	if err != nil {
		return out, err
	}
	for _, c := range archives {
		if excess <= 0 || ctx.Err() != nil {
			break
		}
		linked := cache.linked(c.info)
		if in.Digests[c.digest] || slices.ContainsFunc(linked, func(sum string) bool { return machines[sum] }) {
			continue
		}
		removed, err := s.remove(c)
		if err != nil {
			return out, err
		}
		if !removed {
			continue
		}
		out.Archives++
		for _, sum := range linked {
			if err := cache.remove(sum); err != nil {
				return out, err
			}
			out.Cached++
		}
		out.Bytes += c.size
		excess -= c.size
	}
	err = errors.Join(s.sweepCache(cache, machines, &out), s.sweepUnpacked(&out))
	s.o.Metrics.removed(out.Bytes)
	s.measure()
	return out, errors.Join(err, s.saveIndex(), ctx.Err())
}

// excess is how many bytes must go; 0 below the high watermark.
func (s *Store) excess() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.o.Dir, &st); err != nil {
		return 0, fmt.Errorf("disk of %s: %w", s.o.Dir, err)
	}
	size, free := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	if size == 0 || (size-free)*100 < size*int64(s.o.GCHigh) {
		return 0, nil
	}
	return size/100*int64(100-s.o.GCLow) - free, nil
}

// listArchives returns all files of the store, the least recently used first.
func (s *Store) listArchives() ([]candidate, error) {
	dir, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("folder of images: %w", err)
	}
	var out []candidate
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
			return nil, fmt.Errorf("folder of images: %w", err)
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
	return out, nil
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

// remove removes the archive unless it was used of late, which it may have
// been since it was listed.
func (s *Store) remove(c candidate) (bool, error) {
	s.renaming.Lock()
	defer s.renaming.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	used := c.info.ModTime()
	if r := s.index.Images[c.digest]; r != nil {
		used = r.Used
	}
	if s.o.Clock.Since(used) < s.o.GCMinAge {
		return false, nil
	}
	if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove image %s: %w", c.digest, err)
	}
	s.index.forget(c.digest)
	return true, nil
}
