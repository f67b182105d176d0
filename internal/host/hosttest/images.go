// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/watchers"
)

// Images is an in-memory fake of host.Images. It has a registry to which tests
// push, and writes a file for each image, so that machines can be made from it. A
// pull ends immediately, unless Hold delays it. A call is recorded as "Get" and
// the reference.
type Images struct {
	*Faults
	dir   string
	clock interface{ Now() time.Time }

	mu       sync.Mutex
	remote   map[string]*remoteImage // by reference
	local    map[string]string       // digests, by file:NAME and docker-daemon:NAME
	packed   map[string]bool         // the references of artifacts
	command  []string                // of every image
	down     error
	resolved map[string]*resolvedImage
	failures map[string]*imageFailure // by reference and secrets
	requests map[string]*imageRequest // by UID
	pulls    int
	watchers watchers.Watchers
}

type remoteImage struct {
	digest      string
	secret      []byte // nil: public
	held        bool
	done, total int64
}

type resolvedImage struct {
	digest string
	// grants has the secrets with which it was pulled; "" means that no secret
	// was needed.
	grants map[string]bool
}

type imageFailure struct {
	err      error
	until    time.Time
	count    int
	reported map[string]bool // by UID
}

var _ host.Images = (*Images)(nil)

// NewImages returns a fake node without images. It writes its files to dir. The
// faults may be shared with other fakes; nil means none. The clock is for
// backoff and for the lifetime of the registry's answers.
func NewImages(faults *Faults, dir string, clock interface{ Now() time.Time }) *Images {
	if faults == nil {
		faults = &Faults{}
	}
	return &Images{
		Faults: faults, dir: dir, clock: clock, remote: map[string]*remoteImage{}, local: map[string]string{},
		resolved: map[string]*resolvedImage{}, failures: map[string]*imageFailure{},
		packed: map[string]bool{}, requests: map[string]*imageRequest{},
	}
}

// ImageDigest returns the digest of an image with this content.
func ImageDigest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Push pushes an image with this content to the registry and returns its digest.
// A private reference stays private.
func (f *Images) Push(reference, content string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remoteOf(reference).digest = ImageDigest(content)
	return ImageDigest(content)
}

// PutLocal adds an image with the reference file:NAME or docker-daemon:NAME to
// the node, and returns its digest.
func (f *Images) PutLocal(reference, content string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.local[reference] = ImageDigest(content)
	return ImageDigest(content)
}

// MarkArtifact makes the reference name an artifact. Call it before Push or PutLocal.
func (f *Images) MarkArtifact(reference string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.packed[reference] = true
}

// SetCommand sets the command of every image.
func (f *Images) SetCommand(command ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.command = command
}

// Command implements host.Images.
func (f *Images) Command(ctx context.Context, path string) (command []string, err error) {
	read := func() error {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("image: %w: %w", host.ErrNotFound, err)
		}
		command = slices.Clone(f.command)
		return host.CheckCommand(command)
	}
	err = f.aroundSteps("Command "+path, steps{whole: read}.under(ctx, &f.mu))
	return command, err
}

// RemoveLocal removes an image that PutLocal added. The store keeps its copy.
func (f *Images) RemoveLocal(reference string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.local, reference)
}

// Private makes the registry require this pull secret for the reference.
func (f *Images) Private(reference string, secret []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remoteOf(reference).secret = secret
}

// Hold delays pulls of the reference until Release.
func (f *Images) Hold(reference string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remoteOf(reference).held = true
}

// Progress sets the progress of a held pull, and notifies the Bottles that wait
// for it.
func (f *Images) Progress(reference string, done, total int64) {
	f.mu.Lock()
	r := f.remoteOf(reference)
	r.done, r.total = done, total
	f.mu.Unlock()
	f.notifyWaiting(reference)
}

// Release ends the delay of Hold, and notifies the Bottles that wait for the pull.
func (f *Images) Release(reference string) {
	f.mu.Lock()
	f.remoteOf(reference).held = false
	f.mu.Unlock()
	f.notifyWaiting(reference)
}

// Down makes every pull fail with err. A nil err makes the registry work again.
func (f *Images) Down(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

// Remove removes an image from the store without the agent knowing.
func (f *Images) Remove(digest string) { _ = os.Remove(f.path(host.ImageRequest{}, digest)) }

// Pulls returns how often an image was pulled from the registry.
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
