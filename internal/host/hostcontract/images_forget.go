// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"errors"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// imageAnswerCounts: for who asked, an answer counts until it has made its
// machine, and at most for a while.
func imageAnswerCounts(t *testing.T, f ImagesFixture, ref string) {
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

// imageForgotten: whoever wants it no more, or wants something else, is told
// of nothing; all others are.
func imageForgotten(t *testing.T, f ImagesFixture) {
	ref := f.Repository + ":1"
	digest := f.Push(t, ref)
	release := f.Hold(t, f.Repository)
	told := make(chan string, 100)
	go f.Images.WatchImages(t.Context(), func(uid string) { told <- uid })
	wantUID(t, told, "watch begun", "")
	pulling := func(uid string) {
		t.Helper()
		_, err := f.Images.Get(t.Context(), host.ImageRequest{Reference: ref, For: uid})
		if under := (*host.Pulling)(nil); !errors.As(err, &under) {
			t.Fatalf("%s, held: got %v, want a pull under way", uid, err)
		}
	}
	// Alone with it, and gone: what comes after is a pull like any other.
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
	for len(told) > 0 {
		<-told // of what was before
	}
	release()
	for deadline := time.After(15 * time.Second); ; {
		select {
		case uid := <-told:
			if uid != "z" {
				t.Errorf("released: got word to %s, want to z alone", uid)
			}
		case <-deadline:
			t.Fatal("released: got no end within 15 s")
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
