// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

const (
	indexFile = ".index.json"
	// maxIndexBytes bounds what is read back.
	maxIndexBytes = 64 << 20
	maxGrants     = 64
	// maxTops bounds what an image is known to stand for: a registry can make
	// new indexes over the same image without end.
	maxTops       = 64
	maxReferences = 10000
	keyBytes      = 32
)

// index is what the store remembers beside its archives. When it is lost, the
// archives are still good, but who may have them is not known: the next who
// asks has it sent once more, to be compared, and the archive stays as it is.
// An archive was then last used when it was written.
type index struct {
	// Key makes fingerprints of credentials worthless elsewhere.
	Key []byte `json:"key"`
	// References is what was resolved last, by canonical reference.
	References map[string]*resolution `json:"references"`
	// Images is by the archives' digest.
	Images map[string]*record `json:"images"`
}

type resolution struct {
	Digest string    `json:"digest"`
	At     time.Time `json:"at"`
	// Grants are the fingerprints of credentials that the registry gave this
	// very image to.
	Grants []string `json:"grants,omitempty"`
}

type record struct {
	Used time.Time `json:"used"`
	// Repositories are those that served all of it. An image is not taken
	// from the store for another that only claims to have it: it might know
	// nothing but the digest.
	Repositories []string `json:"repositories,omitempty"`
	// Tops are the digests of manifests and indexes that stand for the image
	// on this node. One that is forgotten is asked for once more.
	Tops []string `json:"tops,omitempty"`
}

func newIndex() *index {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails
	return &index{Key: key, References: map[string]*resolution{}, Images: map[string]*record{}}
}

// loadIndex returns what was saved, or a new index and why.
func loadIndex(dir string) (*index, error) {
	f, err := os.Open(filepath.Join(dir, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return newIndex(), nil
	}
	if err != nil {
		return newIndex(), err
	}
	defer f.Close()
	x := newIndex()
	x.Key = nil
	err = json.NewDecoder(io.LimitReader(f, maxIndexBytes)).Decode(x)
	if err != nil {
		return newIndex(), fmt.Errorf("index of images: unreadable: %w", err)
	}
	if len(x.Key) != keyBytes || x.References == nil || x.Images == nil || hasNil(x.References) || hasNil(x.Images) {
		return newIndex(), errors.New("index of images: incomplete: a key, references or images are missing in it")
	}
	return x, nil
}

func hasNil[T any](m map[string]*T) bool {
	for _, v := range m {
		if v == nil {
			return true
		}
	}
	return false
}

// resolve notes what the reference is now, and who was given it.
func (x *index) resolve(reference, digest, grant string, now time.Time) {
	r := x.References[reference]
	if r == nil || r.Digest != digest {
		// Who was given the tag's old image has to ask for the new one.
		r = &resolution{Digest: digest}
		x.References[reference] = r
	}
	r.At = now
	if grant != "" && !slices.Contains(r.Grants, grant) {
		r.Grants = append(r.Grants, grant)
		r.Grants = r.Grants[max(0, len(r.Grants)-maxGrants):]
	}
	x.trim()
}

// bound forgets the resolutions that are oldest.
func (x *index) trim() {
	for len(x.References) > maxReferences {
		oldest, at := "", time.Time{}
		for ref, r := range x.References {
			if oldest == "" || r.At.Before(at) {
				oldest, at = ref, r.At
			}
		}
		delete(x.References, oldest)
	}
}

// served notes that the repository has all of the image.
func (x *index) recordServed(digest, repository string, now time.Time) {
	r := x.Images[digest]
	if r == nil {
		r = &record{}
		x.Images[digest] = r
	}
	r.Used = now
	if !slices.Contains(r.Repositories, repository) {
		r.Repositories = append(r.Repositories, repository)
		r.Repositories = r.Repositories[max(0, len(r.Repositories)-maxGrants):]
	}
}

// hasServed says whether the repository is known to have all of the image.
func (x *index) hasServed(digest, repository string) bool {
	r := x.Images[digest]
	return r != nil && slices.Contains(r.Repositories, repository)
}

// stands notes that the manifest or index, if any, stands for the image, which
// has been served. The lock is held.
func (x *index) recordTop(top, digest string) {
	if top == "" || x.imageOf(top) == digest {
		return
	}
	for _, r := range x.Images { // it may have stood for another
		r.Tops = slices.DeleteFunc(r.Tops, func(t string) bool { return t == top })
	}
	r := x.Images[digest]
	r.Tops = append(r.Tops, top)
	r.Tops = r.Tops[max(0, len(r.Tops)-maxTops):]
}

// standsFor is the image that the manifest or index stands for, "" where that
// is not known.
func (x *index) imageOf(top string) string {
	for digest, r := range x.Images {
		if slices.Contains(r.Tops, top) {
			return digest
		}
	}
	return ""
}

// use notes a use of the archive.
func (x *index) recordUse(digest string, now time.Time) {
	if r := x.Images[digest]; r != nil {
		r.Used = now
		return
	}
	x.Images[digest] = &record{Used: now}
}

// forget drops what is known of an archive that was removed.
func (x *index) forget(digest string) {
	delete(x.Images, digest)
	for ref, r := range x.References {
		if r.Digest == digest {
			delete(x.References, ref)
		}
	}
}

// saveIndex writes the index as a whole, root's alone.
func (s *Store) saveIndex() error {
	s.saveMu.Lock()
	defer s.saveMu.Unlock()
	s.mu.Lock()
	raw, err := json.Marshal(s.index)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("index of images: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(s.o.Dir, indexFile), raw, 0o600); err != nil {
		return fmt.Errorf("index of images: %w", err)
	}
	return nil
}
