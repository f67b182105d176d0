// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func TestImagesContract(t *testing.T) {
	hostcontract.TestImages(t, func(t *testing.T) hostcontract.ImagesFixture {
		clock := clocktesting.NewFakeClock(time.Unix(1000, 0))
		f := NewImages(nil, t.TempDir(), clock)
		pushed := 0
		refsOf := func(repository string) (refs []string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for ref := range f.remote {
				if strings.HasPrefix(ref, repository+":") {
					refs = append(refs, ref)
				}
			}
			return refs
		}
		return hostcontract.ImagesFixture{
			Images: f, Repository: "registry.test/demo",
			Push: func(_ *testing.T, ref string) string {
				pushed++
				return f.Push(ref, fmt.Sprint(pushed))
			},
			Private: func(_ *testing.T, repository string) []byte {
				secret := []byte(`{"auths":{}}`)
				for _, ref := range refsOf(repository) {
					f.Private(ref, secret)
				}
				return secret
			},
			Hold: func(_ *testing.T, repository string) func() {
				for _, ref := range refsOf(repository) {
					f.Hold(ref)
				}
				return func() {
					for _, ref := range refsOf(repository) {
						f.Release(ref)
					}
				}
			},
			Down:     func(*testing.T) { f.Down(errors.New("connection refused")) },
			Up:       func(*testing.T) { f.Down(nil) },
			PutLocal: func(_ *testing.T, name string) { f.PutLocal(host.LocalPrefix+name, name) },
			PushArtifact: func(_ *testing.T, ref string) string {
				f.MarkArtifact(ref)
				return strings.TrimPrefix(f.Push(ref, ref), "sha256:")
			},
			PutArtifact: func(_ *testing.T, ref string) string {
				f.MarkArtifact(ref)
				return strings.TrimPrefix(f.PutLocal(ref, ref), "sha256:")
			},
			Step: clock.Step,
		}
	})
}

// TestImagesFault checks that Get after a lost reply returns the image without a
// second pull.
func TestImagesFault(t *testing.T) {
	f := NewImages(nil, t.TempDir(), clocktesting.NewFakeClock(time.Unix(1000, 0)))
	digest := f.Push("registry.test/demo:1", "x")
	f.Fail("Get", After, 1, host.ErrUnavailable)
	if img, err := f.Get(t.Context(), host.ImageRequest{Reference: "registry.test/demo:1", For: "a"}); !errors.Is(err, host.ErrUnavailable) || img != (host.Image{}) {
		t.Errorf("lost: got %v %v, want ErrUnavailable", img, err)
	}
	img, err := f.Get(t.Context(), host.ImageRequest{Reference: "registry.test/demo:1", For: "a"})
	if err != nil || img.Digest != digest || f.Pulls() != 1 {
		t.Errorf("again: got %v %v and %d pulls, want %s by one pull", img, err, f.Pulls(), digest)
	}
}
