// SPDX-License-Identifier: Apache-2.0

package image

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/test/await"
)

// A Bottle with PullAlways that waits for something else, such as memory,
// requests its image in every pass.
func TestRepeatedRequestIsQuiet(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:latest", newImage(t, "amd64", "one"))
	req := w.request("demo", "a")
	var want []string
	wantEvents := func(more ...string) {
		t.Helper()
		want = append(want, more...)
		await.True(t, strings.Join(want, ", "), func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.events) >= len(want)
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		var got []string
		for _, e := range w.events {
			got = append(got, strings.Fields(e)[1])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("Events (-want +got):\n%s", diff)
		}
	}
	wantResolves := func(want int) {
		t.Helper()
		if n := w.reg.count("HEAD /v2/demo/manifests/latest"); n != want {
			t.Errorf("got %d requests to resolve the tag, want %d", n, want)
		}
	}
	for range 8 {
		w.want(req)
		w.clock.Step(30 * time.Second)
	}
	wantResolves(2) // the first time and after two minutes
	wantEvents(ReasonPulling, ReasonPulled)

	moved := w.reg.push(t, "demo:latest", newImage(t, "amd64", "two"))
	if got := w.want(req); got.Digest != moved {
		t.Errorf("the tag moved: got %s, want %s", got.Digest, moved)
	}
	wantResolves(3)
	wantEvents(ReasonPulling, ReasonPulled)

	w.reg.setFault(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	w.clock.Step(answerReusable)
	w.wantFailed(req)
	wantEvents(ReasonFailed)
	w.wantFailed(req)
	w.wantFailed(req)
	wantEvents(ReasonBackOff) // once, however often the image is requested
	w.reg.setFault(nil)
	w.clock.Step(firstBackoff)
	w.want(req)
	wantEvents(ReasonPulling, ReasonPulled)

	// The machine was made. The next machine needs a new answer.
	w.Forget("a")
	w.reg.resetRequests()
	w.want(req)
	wantResolves(1)
	wantEvents(ReasonPulling, ReasonPulled)
}

// Requesters that neither request again nor call Forget are removed after a
// while.
func TestRequestersArePruned(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.want(w.request("demo:1", "a"))
	w.clock.Step(requesterKept + time.Second)
	w.want(w.request("demo:1", "b"))
	w.wantFailed(w.request("absent:1", "c"))
	w.Store.mu.Lock()
	defer w.Store.mu.Unlock()
	if w.requesters["a"] != nil || w.requesters["b"] == nil || w.requesters["c"] == nil {
		t.Errorf("got %v, want b and c", w.requesters)
	}
}
