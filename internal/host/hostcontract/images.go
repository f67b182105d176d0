// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// ImagesFixture is an implementation of host.Images and its environment: a
// registry, a folder of local images, and a clock.
type ImagesFixture struct {
	Images host.Images
	// Repository is HOST/NAME at the registry, to which :TAG is added.
	Repository string
	// Push pushes a new image with this reference and returns its digest.
	Push func(t *testing.T, reference string) string
	// Private makes the registry require a secret for the repository, and
	// returns the secret.
	Private func(t *testing.T, repository string) []byte
	// Hold delays the registry's answers about the repository until release is
	// called.
	Hold func(t *testing.T, repository string) (release func())
	// Down makes the registry unreachable; Up makes it reachable again.
	Down, Up func(t *testing.T)
	// PutLocal puts an archive into the folder of local images.
	PutLocal func(t *testing.T, name string)
	// PushArtifact pushes a new artifact with this reference; PutArtifact puts an
	// artifact into the folder of local images. Both return the SHA-256 of the
	// artifact's file.
	PushArtifact, PutArtifact func(t *testing.T, reference string) string
	// Step advances the clock that backoff uses.
	Step func(d time.Duration)
}

// TestImages runs the suite, with a new fixture for every test.
func TestImages(t *testing.T, fixture func(t *testing.T) ImagesFixture) {
	tests := []struct {
		name string
		run  func(t *testing.T, f ImagesFixture)
	}{
		{"pulled once and kept", imageKept},
		{"a tag that moves", imageMoves},
		{"private", imagePrivate},
		{"never", imageNever},
		{"invalid references", imageInvalid},
		{"local", imageLocal},
		{"artifacts", imageArtifact},
		{"pulling", imagePulling},
		{"forget", imageForgotten},
		{"failures back off", imageBackOff},
		{"cancelled", imageCancelled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fixture(t)) })
	}
}

// settle calls Get until its result is not *Pulling.
func (f ImagesFixture) settle(t *testing.T, req host.ImageRequest) (host.Image, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	changes := make(chan string, 100)
	go f.Images.WatchImages(ctx, func(uid string) { changes <- uid })
	for {
		img, err := f.Images.Get(ctx, req)
		var pulling *host.Pulling
		if !errors.As(err, &pulling) {
			return img, err
		}
		if pulling.Message == "" {
			t.Errorf("%s: got a pull without a message", req.Reference)
		}
		// Do not rely on the watch alone: it may have started too late.
		select {
		case <-changes:
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: got %v after 30 s, want the pull to end", req.Reference, pulling)
		}
	}
}

func (f ImagesFixture) want(t *testing.T, req host.ImageRequest, digest string) host.Image {
	t.Helper()
	img, err := f.settle(t, req)
	if err != nil {
		t.Fatalf("%s: %v", req.Reference, err)
	}
	if digest != "" && img.Digest != digest || img.Reference != req.Reference {
		t.Fatalf("%s: got %+v, want digest %s", req.Reference, img, digest)
	}
	info, err := os.Lstat(img.Path)
	if err != nil || info.Mode() != 0o644 || info.Size() != img.Size || img.Size == 0 || !filepath.IsAbs(img.Path) {
		t.Fatalf("%s: got file %v %v, want a file of mode 0644 and %d bytes at an absolute path", req.Reference, info, err, img.Size)
	}
	return img
}

func (f ImagesFixture) wantFailed(t *testing.T, req host.ImageRequest) *host.PullFailed {
	t.Helper()
	img, err := f.settle(t, req)
	var failed *host.PullFailed
	if !errors.As(err, &failed) {
		t.Fatalf("%s: got %v %v, want a failed pull", req.Reference, img, err)
	}
	return failed
}

func imageKept(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":1"
	digest := f.Push(t, ref)
	first := f.want(t, host.ImageRequest{Reference: ref, For: "a"}, digest)
	f.Down(t)
	if again := f.want(t, host.ImageRequest{Reference: ref, For: "b"}, digest); again != first {
		t.Errorf("again: got %v, want %v", again, first)
	}
	f.Step(time.Minute)
	always := host.ImageRequest{Reference: ref, Policy: host.PullAlways, For: "b"}
	if failed := f.wantFailed(t, always); failed.BackOff {
		t.Errorf("registry down, Always: got a backoff, want the failure first")
	}
}

func imageMoves(t *testing.T, f ImagesFixture) {
	fixed, latest := f.Repository+":1", f.Repository+":latest"
	old, oldLatest := f.Push(t, fixed), f.Push(t, latest)
	f.want(t, host.ImageRequest{Reference: fixed, For: "a"}, old)
	f.want(t, host.ImageRequest{Reference: latest, For: "a"}, oldLatest)
	moved, movedLatest := f.Push(t, fixed), f.Push(t, latest)
	if old == moved {
		t.Fatal("fixture: got the same image twice")
	}
	f.want(t, host.ImageRequest{Reference: fixed, For: "b"}, old)
	f.want(t, host.ImageRequest{Reference: latest, For: "b"}, movedLatest)
	f.want(t, host.ImageRequest{Reference: latest, Policy: host.PullIfNotPresent, For: "c"}, movedLatest)
	f.want(t, host.ImageRequest{Reference: fixed, Policy: host.PullAlways, For: "c"}, moved)
	imageAnswerLifetime(t, f, latest)
}

func imagePrivate(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":1"
	digest := f.Push(t, ref)
	secret := f.Private(t, f.Repository)
	none := host.ImageRequest{Reference: ref, For: "a"}
	with := host.ImageRequest{Reference: ref, For: "b", PullSecrets: []host.PullSecret{{Name: "regcred", Content: secret}}}
	f.wantFailed(t, none)
	f.want(t, with, digest)
	f.Step(time.Hour)
	f.wantFailed(t, none)
	never := none
	never.Policy = host.PullNever
	if img, err := f.settle(t, never); !errors.Is(err, host.ErrNeverPull) {
		t.Errorf("never, without the secret: got %v %v, want ErrNeverPull", img, err)
	}
	f.Down(t)
	f.want(t, with, digest)
	with.Policy = host.PullNever
	f.want(t, with, digest)
}

func imageNever(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":1"
	digest := f.Push(t, ref)
	never := host.ImageRequest{Reference: ref, Policy: host.PullNever, For: "a"}
	if img, err := f.settle(t, never); !errors.Is(err, host.ErrNeverPull) {
		t.Fatalf("absent: got %v %v, want ErrNeverPull", img, err)
	}
	f.want(t, host.ImageRequest{Reference: ref, For: "b"}, digest)
	f.want(t, never, digest)
}

func imageInvalid(t *testing.T, f ImagesFixture) {
	for _, ref := range []string{"", " ", "UPPER", "https://user:hunter2@example.com/x", "a b", "file:../x", "docker-daemon:x"} {
		if img, err := f.settle(t, host.ImageRequest{Reference: ref, For: "a"}); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%q: got %v %v, want ErrInvalid", ref, img, err)
		}
	}
	f.Push(t, f.Repository+":1")
	if img, err := f.settle(t, host.ImageRequest{Reference: f.Repository + ":1"}); !errors.Is(err, host.ErrInvalid) {
		t.Errorf("without a UID: got %v %v, want ErrInvalid", img, err)
	}
}

func imageLocal(t *testing.T, f ImagesFixture) {
	req := host.ImageRequest{Reference: "file:a.tar", For: "a"}
	if img, err := f.settle(t, req); !errors.Is(err, host.ErrNotFound) {
		t.Fatalf("absent: got %v %v, want ErrNotFound", img, err)
	}
	f.PutLocal(t, "a.tar")
	first := f.want(t, req, "")
	if again := f.want(t, req, ""); again != first {
		t.Errorf("again: got %v, want %v", again, first)
	}
}

func imageArtifact(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":packed"
	for reference, sum := range map[string]string{ref: f.PushArtifact(t, ref), "file:a.smolmachine": f.PutArtifact(t, "file:a.smolmachine")} {
		req := host.ImageRequest{Reference: reference, Artifact: true, For: "a"}
		img := f.want(t, req, "sha256:"+sum)
		if filepath.Ext(img.Path) != ".smolmachine" {
			t.Errorf("%s: got %s, want a .smolmachine", reference, img.Path)
		}
		req.SHA256 = sum
		if again := f.want(t, req, "sha256:"+sum); again != img {
			t.Errorf("%s with its checksum: got %v, want %v", reference, again, img)
		}
		// It must fail although a file with another checksum is in the store.
		req.SHA256 = strings.Repeat("ab", 32)
		failed := f.wantFailed(t, req)
		for _, want := range []string{sum, req.SHA256} {
			if !strings.Contains(failed.Error(), want) {
				t.Errorf("%s with another checksum: got %q, want %s in it", reference, failed, want)
			}
		}
	}
	// An artifact is not accepted as an image, nor an image as an artifact.
	f.wantFailed(t, host.ImageRequest{Reference: ref, For: "a"})
	image := f.Repository + ":1"
	f.Push(t, image)
	f.wantFailed(t, host.ImageRequest{Reference: image, Artifact: true, For: "a"})
	for _, ref := range []string{"docker-daemon:x", "UPPER"} {
		if img, err := f.settle(t, host.ImageRequest{Reference: ref, Artifact: true, For: "a"}); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%s: got %v %v, want ErrInvalid", ref, img, err)
		}
	}
	if img, err := f.settle(t, host.ImageRequest{Reference: "file:b.smolmachine", Artifact: true, For: "a"}); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("absent: got %v %v, want ErrNotFound", img, err)
	}
}

func imagePulling(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":1"
	digest := f.Push(t, ref)
	release := f.Hold(t, f.Repository)
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- f.Images.WatchImages(ctx, func(uid string) { changes <- uid }) }()
	wantUID(t, changes, "watch started", "")
	waiting := map[string]bool{"a": true, "b": true}
	for uid := range waiting {
		_, err := f.Images.Get(ctx, host.ImageRequest{Reference: ref, For: uid})
		var pulling *host.Pulling
		if !errors.As(err, &pulling) || pulling.Message == "" {
			t.Fatalf("held: got %v, want *Pulling", err)
		}
	}
	release()
	for len(waiting) > 0 {
		select {
		case uid := <-changes:
			delete(waiting, uid)
		case <-time.After(15 * time.Second):
			t.Fatalf("released: %v not notified within 15 s", waiting)
		}
	}
	f.want(t, host.ImageRequest{Reference: ref, For: "a"}, digest)
	f.want(t, host.ImageRequest{Reference: ref, For: "b"}, digest)
	cancel()
	wantEnded(t, ended)
}

func imageBackOff(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":1"
	digest := f.Push(t, ref)
	f.Down(t)
	a, b := host.ImageRequest{Reference: ref, For: "a"}, host.ImageRequest{Reference: ref, For: "b"}
	first := f.wantFailed(t, a)
	if first.BackOff || first.Error() == "" {
		t.Errorf("first: got %+v, want a failure that is not a backoff", first)
	}
	if again := f.wantFailed(t, a); !again.BackOff || !again.Until.Equal(first.Until) {
		t.Errorf("again: got %+v, want a backoff until %v", again, first.Until)
	}
	if other := f.wantFailed(t, b); other.BackOff || !other.Until.Equal(first.Until) {
		t.Errorf("first for another Bottle: got %+v, want the same failure", other)
	}
	f.Step(11 * time.Second)
	second := f.wantFailed(t, a)
	if second.BackOff || second.Until.Sub(first.Until) < 20*time.Second {
		t.Errorf("second: got %+v, want a failure with 20 s of backoff", second)
	}
	f.Up(t)
	if still := f.wantFailed(t, a); !still.BackOff {
		t.Errorf("registry up, before Until: got %+v, want a backoff", still)
	}
	f.Step(21 * time.Second)
	f.want(t, a, digest)
	f.want(t, b, digest)
}

func imageCancelled(t *testing.T, f ImagesFixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if img, err := f.Images.Get(ctx, host.ImageRequest{Reference: f.Repository + ":1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v %v, want context.Canceled", img, err)
	}
}
