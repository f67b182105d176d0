// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// Images is host.Images in memory, with a registry that tests push to, and
// with a file for each image, so that machines can be made of them. A pull is
// over when it begins unless Hold holds it up. Calls are recorded as "Get" and
// the reference.
type Images struct {
	*Faults
	dir   string
	clock interface{ Now() time.Time }

	mu       sync.Mutex
	remote   map[string]*remoteImage // by reference
	local    map[string]string       // digests, by file:NAME and docker-daemon:NAME
	packed   map[string]bool         // the references of artifacts
	down     error
	resolved map[string]*resolvedImage
	failures map[string]*imageFailure // by reference and secrets
	asks     map[string]*imageAsk     // by UID
	pulls    int
	watchers watchers
}

type remoteImage struct {
	digest      string
	secret      []byte // nil: public
	held        bool
	done, total int64
}

type resolvedImage struct {
	digest string
	// grants are the secrets that it was given to; "" is nobody's.
	grants map[string]bool
}

type imageFailure struct {
	err   error
	until time.Time
	count int
	told  map[string]bool
}

var _ host.Images = (*Images)(nil)

// NewImages returns a node without images that writes its files to dir. The
// faults may be shared with other fakes; nil means none. The clock is for
// backoff.
func NewImages(faults *Faults, dir string, clock interface{ Now() time.Time }) *Images {
	if faults == nil {
		faults = &Faults{}
	}
	return &Images{
		Faults: faults, dir: dir, clock: clock, remote: map[string]*remoteImage{}, local: map[string]string{},
		resolved: map[string]*resolvedImage{}, failures: map[string]*imageFailure{},
		packed: map[string]bool{}, asks: map[string]*imageAsk{},
	}
}

// ImageDigest is the digest of the image that the content stands for.
func ImageDigest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Push makes the reference, at the registry, an image that the content stands
// for, and returns its digest. What is private stays so.
func (f *Images) Push(reference, content string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remoteOf(reference).digest = ImageDigest(content)
	return ImageDigest(content)
}

// PutLocal makes file:NAME or docker-daemon:NAME an image.
func (f *Images) PutLocal(reference, content string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.local[reference] = ImageDigest(content)
	return ImageDigest(content)
}

// Pack makes what the reference names an artifact: call it before Push or
// PutLocal.
func (f *Images) Pack(reference string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.packed[reference] = true
}

// RemoveLocal takes it away again. What is in the store stays there.
func (f *Images) RemoveLocal(reference string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.local, reference)
}

// Private makes the registry want this pull secret for the reference.
func (f *Images) Private(reference string, secret []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remoteOf(reference).secret = secret
}

// Hold keeps pulls of the reference under way until Release.
func (f *Images) Hold(reference string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remoteOf(reference).held = true
}

// Progress says how far a held pull is.
func (f *Images) Progress(reference string, done, total int64) {
	f.mu.Lock()
	r := f.remoteOf(reference)
	r.done, r.total = done, total
	f.mu.Unlock()
	f.tellWaiting(reference)
}

// Release ends what Hold began; those who wait are told.
func (f *Images) Release(reference string) {
	f.mu.Lock()
	f.remoteOf(reference).held = false
	f.mu.Unlock()
	f.tellWaiting(reference)
}

// Down makes the registry fail every pull with err; nil ends it.
func (f *Images) Down(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

// Remove takes an image out of the store behind the agent's back.
func (f *Images) Remove(digest string) { _ = os.Remove(f.path(host.ImageRequest{}, digest)) }

// Pulls counts how often an image was brought from the registry.
func (f *Images) Pulls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pulls
}

func (f *Images) remoteOf(reference string) *remoteImage {
	if f.remote[reference] == nil {
		f.remote[reference] = &remoteImage{}
	}
	return f.remote[reference]
}
