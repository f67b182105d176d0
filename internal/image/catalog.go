// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

// catalog knows what the files on the node are: for which references and credentials
// they may be used, and when they were used last. It saves most of that in the index.
type catalog struct {
	*files
	clock clock.PassiveClock
	// fingerprintKey is the key of the fingerprints of credentials.
	fingerprintKey []byte

	saveMu sync.Mutex // guards writing the index

	// indexMu guards the fields below. It may be taken while ledger.mu is held, but
	// not the other way round.
	indexMu sync.Mutex
	index   *index
	known   map[string]knownFile // by canonical reference
}

// knownFile identifies a local archive at the time when it was copied, and
// holds its digest.
type knownFile struct {
	id     fileID
	digest string
}

// openCatalog reads the index. If that cannot be read, it starts a new one, and the
// error says why.
func openCatalog(f *files, c clock.PassiveClock) (*catalog, error) {
	x, err := loadIndex(f.dir)
	return &catalog{files: f, clock: c, fingerprintKey: x.Key, index: x, known: map[string]knownFile{}}, err
}

// use records a use of the file, if it is there. Collect does not remove a file that
// was just used.
func (s *catalog) use(digest string, as form, now time.Time) (size int64, ok bool) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	if size, ok = s.present(digest, as); ok {
		s.index.recordUse(digest, now)
	}
	return size, ok
}

// resolved returns what the request's reference resolved to last, if the registry gave
// it to one of the request's credentials; otherwise "".
func (s *catalog) resolved(req request) string {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	r := s.index.References[req.canonical]
	if r == nil || !granted(r, req.fingerprints) {
		return ""
	}
	return r.Digest
}

// copied returns the digest of the local file as it was at the request, if it was
// copied already; otherwise "".
func (s *catalog) copied(req request) string {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	if k, ok := s.known[req.canonical]; ok && k.id == req.file {
		return k.digest
	}
	return ""
}

// recordResult records what the job has brought.
func (s *catalog) recordResult(j *job, now time.Time) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.index.recordServed(j.result.digest, j.repository(), now)
	switch j.kind {
	case fromRegistry:
		s.index.resolve(j.canonical, j.result.digest, j.result.grant, now)
	case fromFolder:
		s.known[j.canonical] = knownFile{id: j.file, digest: j.result.digest}
	}
	s.index.recordTop(j.result.top, j.result.digest)
}

// storedImage returns the image that the manifest or index top resolves to, if
// the image is in the store and the repository is known to have it. Otherwise
// it returns "".
func (s *catalog) storedImage(top, repository string) string {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	digest := s.index.imageOf(top)
	if digest == "" || !s.index.hasServed(digest, repository) {
		return ""
	}
	if _, ok := s.present(digest, formArchive); !ok {
		return ""
	}
	return digest
}

func (s *catalog) has(digest string, j *job) bool {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	if !s.index.hasServed(digest, j.repository()) {
		return false
	}
	_, ok := s.present(digest, j.form)
	return ok
}

func (s *catalog) recordServed(digest, repository string) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.index.recordServed(digest, repository, s.clock.Now())
}

// savedFromDaemon returns the digest of the archive of the image with this ID,
// or "" if it is not in the store.
func (s *catalog) savedFromDaemon(key string) string {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	r := s.index.References[key]
	if r == nil {
		return ""
	}
	if _, ok := s.present(r.Digest, formArchive); !ok {
		return ""
	}
	return r.Digest
}

func (s *catalog) recordSaved(key, digest string) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.index.resolve(key, digest, "", s.clock.Now())
}

// checkKnown fails if the file is known to have the wrong digest, so that a
// retry does not copy it again.
func (s *catalog) checkKnown(j *job) error {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	if k, ok := s.known[j.canonical]; ok && k.id == j.file {
		return j.checkDigest(k.digest)
	}
	return nil
}

func (s *catalog) recordKnown(j *job, digest string) {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	s.known[j.canonical] = knownFile{id: j.file, digest: digest}
}

// saveIndex writes the whole index to a file that only root can read.
func (s *catalog) saveIndex() error {
	s.saveMu.Lock()
	defer s.saveMu.Unlock()
	s.indexMu.Lock()
	raw, err := json.Marshal(s.index)
	s.indexMu.Unlock()
	if err != nil {
		return fmt.Errorf("index of images: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(s.dir, indexFile), raw, 0o600); err != nil {
		return fmt.Errorf("index of images: %w", err)
	}
	return nil
}

// candidate is a file of the store that may be removed.
type candidate struct {
	path   string
	digest string
	used   time.Time
	size   int64
	info   fs.FileInfo
}

// listArchives returns the files of the store, the least recently used first.
// With an error, it returns those that it could read.
func (s *catalog) listArchives() ([]candidate, error) {
	dir, err := os.ReadDir(s.dir)
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
		out = append(out, candidate{path: filepath.Join(s.dir, e.Name()), digest: digest, used: s.lastUse(digest, info), size: info.Size(), info: info})
	}
	slices.SortFunc(out, func(a, b candidate) int {
		if c := a.used.Compare(b.used); c != 0 {
			return c
		}
		return strings.Compare(a.digest, b.digest)
	})
	return out, errors.Join(errs...)
}

// lastUse returns the recorded time of the last use, or else when the archive
// was written.
func (s *catalog) lastUse(digest string, info fs.FileInfo) time.Time {
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	if r := s.index.Images[digest]; r != nil {
		return r.Used
	}
	return info.ModTime()
}

// detach takes the archive out of the store, unless it was used within minAge
// again; renamed is then "". It only renames the file, because unlinking
// gigabytes takes seconds on some filesystems, and nobody could get an image
// meanwhile. A file with the new name is removed at the next start.
func (s *catalog) detach(a candidate, minAge time.Duration) (renamed string, err error) {
	s.renameMu.Lock()
	defer s.renameMu.Unlock()
	s.indexMu.Lock()
	defer s.indexMu.Unlock()
	used := a.info.ModTime()
	if r := s.index.Images[a.digest]; r != nil {
		used = r.Used
	}
	if s.clock.Since(used) < minAge {
		return "", nil
	}
	renamed = filepath.Join(s.dir, tempPrefix+filepath.Base(a.path))
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
