// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

func (w *world) wantCollectorWoken(want bool) {
	w.t.Helper()
	select {
	case <-w.Refused():
		if !want {
			w.t.Error("got the collector woken, want it left alone")
		}
	default:
		if want {
			w.t.Error("got the collector not woken, want it woken")
		}
	}
}

// watch returns a function that returns the Bottles that were notified since
// its last call.
func (w *world) watch() (notified func() []string) {
	var mu sync.Mutex
	var uids []string
	began := make(chan struct{})
	once := sync.OnceFunc(func() { close(began) })
	go func() {
		_ = w.WatchImages(w.t.Context(), func(uid string) { // ends with the test
			once()
			mu.Lock()
			defer mu.Unlock()
			uids = append(uids, uid)
		})
	}()
	<-began
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { uids = nil }()
		return slices.Clone(uids)
	}
}

// reserving configures a disk far below its watermarks on which a pull must
// leave 8 MiB free.
func reserving(o *Options) { o.GCHigh, o.GCLow, o.Reserve = 95, 90, 8<<20 }

// The disk is below its high watermark, but too full for a pull.
func TestCollectMakesRoomForRefusedPull(t *testing.T) {
	w, images := collector(t, 6, reserving) // 16 MiB are free
	w.clock.Step(time.Hour)
	if out := w.collect(Used{}); out != (Collected{}) {
		t.Fatalf("got %+v, want nothing removed while no pull was refused", out)
	}
	w.wantCollectorWoken(false)
	big := newImage(t, "amd64", noise(10, 4<<20), noise(11, 4<<20), noise(12, 4<<20))
	w.reg.push(t, "big:1", big)
	req := w.request("big:1", "waiting")
	w.wantFailed(req, "disk is full")
	w.wantCollectorWoken(true)
	notified := w.watch()

	// The pull needs 12 MiB each for the layers, the unpacked files and the
	// archive, and the reserve, and 16 MiB are free. So four archives are
	// removed.
	out := w.collect(Used{Digests: map[string]bool{images[1].Digest: true}})
	if got, want := w.remaining(images), []int{1, 5}; !slices.Equal(got, want) || out.Short != 0 {
		t.Errorf("got %+v and %v left, want %v: the oldest that nobody uses", out, got, want)
	}
	if got := w.short.need; got != (need{}) {
		t.Errorf("got %+v remembered, want it forgotten", got)
	}
	if got := notified(); !slices.Contains(got, "waiting") {
		t.Errorf("notified: got %q, want the Bottle with the refused pull", got)
	}
	wantImage(t, w.want(req).Path, big) // without stepping the clock

	// The need is satisfied, and nothing more is removed.
	w.clock.Step(DefaultGCMinAge)
	if out := w.collect(Used{}); out != (Collected{}) {
		t.Errorf("got %+v, want nothing removed after the pull succeeded", out)
	}
}

// The removable archives would not make enough room, so they stay.
func TestCollectDoesNotEmptyStoreInVain(t *testing.T) {
	w, images := collector(t, 6, reserving)
	w.clock.Step(time.Hour)
	w.reg.push(t, "big:1", newImage(t, "amd64", noise(10, 4<<20), noise(11, 4<<20), noise(12, 4<<20)))
	w.wantFailed(w.request("big:1", "a"), "disk is full")
	used := Used{Digests: map[string]bool{}}
	for _, img := range images[1:] {
		used.Digests[img.Digest] = true
	}
	out := w.collect(used)
	if out.Archives != 0 || out.Short < 16<<20 {
		t.Errorf("got %+v, want nothing removed, and a shortage of at least 16 MiB", out)
	}
	// The Bottle is gone, and nobody requests the image any more.
	w.clock.Step(needKept + time.Second)
	if out := w.collect(Used{}); out != (Collected{}) {
		t.Errorf("got %+v, want nothing removed for an old pull", out)
	}
}

// A refused pull is retried only if it has room now.
func TestRetryOnlyPullsWithRoom(t *testing.T) {
	w, _ := collector(t, 6, reserving)
	w.clock.Step(time.Hour)
	w.reg.push(t, "big:1", newImage(t, "amd64", noise(10, 4<<20), noise(11, 4<<20)))
	w.reg.push(t, "huge:1", newImage(t, "amd64", noise(10, 4<<20), noise(11, 4<<20), noise(12, 4<<20), noise(13, 4<<20),
		noise(14, 8<<20), noise(15, 8<<20), noise(16, 8<<20)))
	w.wantFailed(w.request("absent:1", "c"))
	w.wantFailed(w.request("big:1", "a"), "disk is full")
	w.wantFailed(w.request("huge:1", "b"), "disk is full")
	w.short.need = need{25 << 20, 25 << 20} // as if the other had never been requested
	w.collect(Used{})
	w.reg.resetRequests()
	w.want(w.request("big:1", "a"))
	before := w.reg.count("")
	w.wantFailed(w.request("huge:1", "b"), "disk is full")
	w.wantFailed(w.request("absent:1", "c"))
	if n := w.reg.count(""); n != before {
		t.Errorf("got %d more requests, want none before the backoff is over", n-before)
	}
}

func TestShortfall(t *testing.T) {
	const gib = 1 << 30
	now := time.Now()
	d := disk{size: 20 * gib, free: 3 * gib}
	for name, tt := range map[string]struct {
		recorded []need
		after    time.Duration
		want     need
	}{
		"nothing":                     {want: need{}},
		"one":                         {recorded: []need{{5 * gib, 5 * gib}}, want: need{3 * gib, 3 * gib}},
		"the largest":                 {recorded: []need{{2 * gib, 2 * gib}, {5 * gib, 5 * gib}, {3 * gib, 3 * gib}}, want: need{3 * gib, 3 * gib}},
		"has room":                    {recorded: []need{{2 * gib, 2 * gib}}, want: need{}},
		"halfway":                     {recorded: []need{{2 * gib, 4 * gib}}, want: need{0, 2 * gib}},
		"halfway, at the disk's size": {recorded: []need{{12 * gib, 24 * gib}}, want: need{10 * gib, 17 * gib}},
		"more than the disk":          {recorded: []need{{20 * gib, 20 * gib}}, want: need{}},
		"any size":                    {recorded: []need{{1<<63 - 1, 1<<63 - 1}}, want: need{}},
		"long ago":                    {recorded: []need{{5 * gib, 5 * gib}}, after: needKept + 1, want: need{}},
		"not so long ago":             {recorded: []need{{5 * gib, 5 * gib}}, after: needKept, want: need{3 * gib, 3 * gib}},
	} {
		h := &shortage{}
		for i, n := range tt.recorded {
			h.record(fmt.Sprint(i), n, now)
		}
		if got := h.shortfall(d, gib, now.Add(tt.after)); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.want)
		}
		if got := h.shortfall(disk{size: 99 * gib, free: 99 * gib}, gib, now); got != (need{}) || !h.at.IsZero() {
			t.Errorf("%s: got %+v, want it forgotten once there is room", name, got)
		}
	}
	h := &shortage{}
	h.record("a", need{6 * gib, 6 * gib}, now)
	h.record("a", need{5 * gib, 5 * gib}, now) // through another mirror, or with another tag
	h.clear("b")
	if got, want := h.shortfall(d, gib, now), (need{3 * gib, 3 * gib}); got != want {
		t.Errorf("refused again: got %+v, want %+v as recorded last", got, want)
	}
	h.clear("a")
	if got := h.shortfall(d, gib, now); got != (need{}) {
		t.Errorf("satisfied: got %+v, want it forgotten", got)
	}
}

// Somebody else makes room, and the image uses it.
func TestSatisfiedShortageIsForgotten(t *testing.T) {
	w, _ := collector(t, 3, reserving)
	filler := fill(t, w.o.Dir, 16<<20)
	w.reg.push(t, "big:1", newImage(t, "amd64", noise(10, 4<<20), noise(11, 4<<20)))
	w.wantFailed(w.request("big:1", "a"), "disk is full")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(firstBackoff)
	w.want(w.request("big:1", "a"))
	w.clock.Step(needKept - time.Minute)
	if out := w.collect(Used{}); out != (Collected{}) {
		t.Errorf("got %+v, want nothing removed", out)
	}
}

// Refused pulls do not wait for the collector.
func TestRefusalsDoNotBlock(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		w.recordRoom(&job{}, errDisk{text: "full", need: need{1, 1}})
	}
	w.recordRoom(&job{}, context.Canceled)
	w.wantCollectorWoken(true)
	w.wantCollectorWoken(false)
}

// Collecting does not help with a disk that is broken rather than full.
func TestBrokenDiskDoesNotWakeCollector(t *testing.T) {
	w := newWorld(t)
	broken := addNeed(need{1, 2}, fmt.Errorf("halfway: %w", errDisk{broken: true, text: "read only"}))
	if want := (errDisk{broken: true, text: "halfway: read only", need: need{1, 2}}); broken != error(want) {
		t.Errorf("got %+v, want %+v", broken, want)
	}
	w.recordRoom(&job{}, broken)
	w.wantCollectorWoken(false)
	until := w.clock.Now().Add(firstBackoff)
	f, full := &failure{err: broken, until: until}, &failure{err: errDisk{text: "full"}, until: until}
	w.Store.mu.Lock()
	w.failures["a"], w.failures["b"] = f, full
	w.Store.mu.Unlock()
	if err := w.retryRefused(); err != nil {
		t.Fatal(err)
	}
	if f.until != until || full.until == until {
		t.Errorf("got the next attempts at %v and %v, want only that of the full disk before %v", f.until, full.until, until)
	}
}
