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
)

const (
	indexFile = ".index.json"
	// maxIndexBytes bounds how much is read back.
	maxIndexBytes = 64 << 20
	maxGrants     = 64
	// maxTops bounds the manifests and indexes that are recorded for one image:
	// a registry can make new indexes of the same image without end.
	maxTops       = 64
	maxReferences = 10000
	keyBytes      = 32
)

// index is what the store remembers in addition to its archives. If it is lost,
// the archives are still good, but it is not known who may have them. The next
// request for an image fetches it once more and verifies it, and the archive
// stays as it is. The time when an archive was written then counts as its last
// use.
type index struct {
	// Key makes the fingerprints of credentials worthless elsewhere.
	Key []byte `json:"key"`
	// References holds the last resolution of each canonical reference.
	References map[string]*resolution `json:"references"`
	// Images is keyed by digest.
	Images map[string]*record `json:"images"`
}

type resolution struct {
	Digest string    `json:"digest"`
	At     time.Time `json:"at"`
	// Grants are the fingerprints of the credentials to which the registry gave
	// exactly this image.
	Grants []string `json:"grants,omitempty"`
}

type record struct {
	Used time.Time `json:"used"`
	// Repositories are those that served all of the image. The store does not
	// hand out an image for a repository that only claims to have it: that
	// repository might know nothing but the digest.
	Repositories []string `json:"repositories,omitempty"`
	// Tops are the digests of manifests and indexes that resolve to this image
	// on this node. A forgotten one is fetched once more.
	Tops []string `json:"tops,omitempty"`
}

func newIndex() *index {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails
	return &index{Key: key, References: map[string]*resolution{}, Images: map[string]*record{}}
}

// loadIndex returns the saved index, or else a new one and an error that says
// why.
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
		return newIndex(), errors.New("index of images: incomplete: the key, references or images are missing")
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

// resolve records what the reference resolves to now, and the credentials that
// it was granted to.
func (x *index) resolve(reference, digest, grant string, now time.Time) {
	r := x.References[reference]
	if r == nil || r.Digest != digest {
		// A grant of the tag's old image does not apply to the new one.
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

// trim forgets the oldest resolutions.
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

// recordServed records that the repository has all of the image.
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

// hasServed reports whether the repository is known to have all of the image.
func (x *index) hasServed(digest, repository string) bool {
	r := x.Images[digest]
	return r != nil && slices.Contains(r.Repositories, repository)
}

// recordTop records that the manifest or index top, if not empty, resolves to
// the image. recordServed must have recorded the image. The caller holds the
// lock.
func (x *index) recordTop(top, digest string) {
	if top == "" || x.imageOf(top) == digest {
		return
	}
	for _, r := range x.Images { // it may have resolved to another image
		r.Tops = slices.DeleteFunc(r.Tops, func(t string) bool { return t == top })
	}
	r := x.Images[digest]
	r.Tops = append(r.Tops, top)
	r.Tops = r.Tops[max(0, len(r.Tops)-maxTops):]
}

// imageOf returns the image that the manifest or index resolves to, "" if not
// known.
func (x *index) imageOf(top string) string {
	for digest, r := range x.Images {
		if slices.Contains(r.Tops, top) {
			return digest
		}
	}
	return ""
}

// recordUse records a use of the archive.
func (x *index) recordUse(digest string, now time.Time) {
	if r := x.Images[digest]; r != nil {
		r.Used = now
		return
	}
	x.Images[digest] = &record{Used: now}
}

// forget drops the record of an archive that was removed, and its references.
func (x *index) forget(digest string) {
	delete(x.Images, digest)
	for ref, r := range x.References {
		if r.Digest == digest {
			delete(x.References, ref)
		}
	}
}
