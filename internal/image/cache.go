// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// cacheDir is smolvm's cache of archives below its HOME. Each entry is a folder
// that is named by the archive's SHA-256 and holds the file archive.tar. smolvm
// never cleans the cache.
var cacheDir = filepath.Join(".cache", "smolvm-image-archives")

const cachedArchive = "archive.tar"

// cache is a snapshot of smolvm's cache, taken when it was opened. The zero
// value is empty.
type cache struct {
	root    *os.Root
	entries []cacheEntry
}

type cacheEntry struct {
	sum  string
	info fs.FileInfo // of the archive; nil when there is none
	at   time.Time   // when the entry was made
}

func (s *remover) openCache() (*cache, error) {
	c := &cache{}
	if s.o.SmolvmHome == "" {
		return c, nil
	}
	home, err := os.OpenRoot(s.o.SmolvmHome)
	if err == nil {
		defer func() { _ = home.Close() }() // read only
		c.root, err = home.OpenRoot(cacheDir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("smolvm's cache of images: %w", err)
	}
	dir, err := fs.ReadDir(c.root.FS(), ".")
	if err != nil {
		c.close()
		return nil, fmt.Errorf("smolvm's cache of images: %w", err)
	}
	for _, e := range dir {
		if !e.IsDir() || !hexDigest.MatchString(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		entry := cacheEntry{sum: e.Name(), at: info.ModTime()}
		if archive, err := c.root.Lstat(filepath.Join(e.Name(), cachedArchive)); err == nil {
			entry.info = archive
		}
		c.entries = append(c.entries, entry)
	}
	return c, nil
}

func (c *cache) close() {
	if c.root != nil {
		_ = c.root.Close() // only a folder
	}
}

// linksTo returns the entries that are hard links to the file.
func (c *cache) linksTo(info fs.FileInfo) []string {
	var out []string
	for _, e := range c.entries {
		if e.info != nil && os.SameFile(e.info, info) {
			out = append(out, e.sum)
		}
	}
	return out
}

func (c *cache) remove(sum string) error {
	if err := c.root.RemoveAll(sum); err != nil {
		return fmt.Errorf("smolvm's cache of images: %w", err)
	}
	c.entries = slices.DeleteFunc(c.entries, func(e cacheEntry) bool { return e.sum == sum })
	return nil
}

// sweepCache removes the entries that belong to no archive or machine. An entry
// of the same size as an archive stays, linked or not: it may be a copy of that
// archive.
func (s *remover) sweepCache(c *collection) {
	archives, err := s.listArchives()
	if err != nil { // the sizes of the archives are not known
		c.addError(err)
		return
	}
	for _, e := range slices.Clone(c.cache.entries) {
		if c.machines[e.sum] || s.o.Clock.Since(e.at) < s.o.GCMinAge {
			continue
		}
		var size int64
		if e.info != nil {
			size = e.info.Size()
			if slices.ContainsFunc(archives, func(a candidate) bool { return a.size == size }) {
				continue
			}
		}
		if err := c.cache.remove(e.sum); err != nil {
			c.addError(err)
			continue
		}
		c.Cached++
		c.Bytes += size
	}
}
