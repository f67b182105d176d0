// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"errors"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// imageAnswerLifetime checks that the registry's answer is good for the Bottle
// that requested it until Forget, and at most for two minutes.
func imageAnswerLifetime(t *testing.T, f ImagesFixture, ref string) {
	req := host.ImageRequest{Reference: ref, Policy: host.PullAlways, For: "waits"}
	first := f.Push(t, ref)
	f.want(t, req, first)
	second := f.Push(t, ref)
	f.Step(time.Minute)
	f.want(t, req, first)
	f.Images.Forget(req.For)
	f.want(t, req, second)
	third := f.Push(t, ref)
	f.Step(2*time.Minute + time.Second)
	f.want(t, req, third)
}

// imageForgotten checks that a Bottle is not notified after Forget or after a
// request for something else, and that the other Bottles are.
func imageForgotten(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":1"
	digest := f.Push(t, ref)
	release := f.Hold(t, f.Repository)
	changes := make(chan string, 100)
	go f.Images.WatchImages(t.Context(), func(uid string) { changes <- uid })
	wantUID(t, changes, "watch started", "")
	pulling := func(uid string) {
		t.Helper()
		_, err := f.Images.Get(t.Context(), host.ImageRequest{Reference: ref, For: uid})
		if p := (*host.Pulling)(nil); !errors.As(err, &p) {
			t.Fatalf("%s, held: got %v, want *Pulling", uid, err)
		}
	}
	// a is the only one that waits, and Forget ends its pull. The pull after that
	// must work as usual.
	f.Images.Forget("nobody")
	pulling("a")
	f.Images.Forget("a")
	f.Images.Forget("a")
	for _, uid := range []string{"a", "b", "z"} {
		pulling(uid)
	}
	f.Images.Forget("a")
	if img, err := f.settle(t, host.ImageRequest{Reference: "file:absent.tar", For: "b"}); !errors.Is(err, host.ErrNotFound) {
		t.Fatalf("absent: got %v %v, want ErrNotFound", img, err)
	}
	for len(changes) > 0 {
		<-changes // discard earlier changes
	}
	release()
	for deadline := time.After(15 * time.Second); ; {
		select {
		case uid := <-changes:
			if uid != "z" {
				t.Errorf("released: notified %s, want only z", uid)
			}
		case <-deadline:
			t.Fatal("released: got no image within 15 s")
		}
		if img, err := f.Images.Get(t.Context(), host.ImageRequest{Reference: ref, For: "z"}); err == nil {
			if img.Digest != digest {
				t.Errorf("released: got %s, want %s", img.Digest, digest)
			}
			break
		}
	}
	f.want(t, host.ImageRequest{Reference: ref, For: "a"}, digest)
}
