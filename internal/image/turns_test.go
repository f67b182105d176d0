// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// of returns the request as a Bottle in the namespace makes it.
func of(namespace string, req host.ImageRequest) host.ImageRequest {
	req.Namespace = namespace
	return req
}

// flood requests a different image for each of many Bottles of a namespace, and returns
// the requests.
func (w *world) flood(namespace string, n int) (out []host.ImageRequest) {
	w.t.Helper()
	for i := range n {
		ref := fmt.Sprintf("%s-%d:1", namespace, i)
		w.reg.push(w.t, ref, newImage(w.t, "amd64", ref))
		out = append(out, of(namespace, w.request(ref, ref)))
		w.pulling(out[i])
	}
	return out
}

// saying returns how many of the requests report a progress with the text in it. Images
// are looked up in parallel, so which of them get the slots is not known.
func (w *world) saying(requests []host.ImageRequest, text string) (n int) {
	for _, req := range requests {
		if strings.Contains(w.pulling(req).Message, text) {
			n++
		}
	}
	return n
}

// A namespace has many Bottles, whose registry does not answer. The Bottle of another
// namespace gets its image meanwhile, from another registry.
func TestSlowNamespaceDoesNotHoldUpOthers(t *testing.T) {
	for name, match := range map[string]func(path string) bool{
		"resolving": manifests,
		"fetching":  func(path string) bool { return strings.Contains(path, "/blobs/") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			quick := newServer(t)
			quick.push(t, "demo:1", newImage(t, "amd64", "one"))
			pit := newTarpit(w.reg, match)
			slots := w.slots
			if name == "resolving" {
				slots = w.resolveSlots
			}
			many := w.flood("many", slots.Slots()+5)
			await.True(t, "the registry to be asked by as many as may", func() bool { return int(pit.in.Load()) == slots.Most() })
			w.want(of("one", host.ImageRequest{Reference: quick.host() + "/demo:1", For: "b"}))
			if n := pit.in.Load(); int(n) != slots.Most() {
				t.Errorf("got %d requests of the other namespace meanwhile, want still %d", n, slots.Most())
			}
			text := fmt.Sprintf("at most %d at a time, %d of one namespace", slots.Slots(), slots.Most())
			await.True(t, "the others to wait", func() bool { return w.saying(many, text) == len(many)-slots.Most() })
			close(pit.opened)
			for _, req := range many {
				w.want(req)
			}
		})
	}
}

// If one namespace holds the only slot, the other namespace is next, however many Bottles
// of the first came before it.
func TestNamespacesTakeTurns(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxPulls = 1 })
	pit := newTarpit(w.reg, func(path string) bool { return strings.Contains(path, "/blobs/") && !strings.Contains(path, "/one-") })
	many := w.flood("many", 4)
	await.True(t, "the first pull", func() bool { return pit.in.Load() == 1 })
	one := w.flood("one", 1)[0]
	await.True(t, "the others to wait", func() bool {
		return strings.Contains(w.pulling(one).Message, "the node pulls") && w.saying(many, "waiting") == len(many)-1
	})
	// Delete the Bottle that holds the slot, so that the slot becomes free.
	for _, req := range many {
		if strings.Contains(w.pulling(req).Message, "waiting") {
			continue
		}
		w.Forget(req.For)
	}
	w.want(one)
	close(pit.opened)
}

// An image that waits in a long line is also wanted by a Bottle of another
// namespace. It gets its slot at the turn of that namespace, and keeps it when
// the Bottle that asked first goes away.
func TestSharedPullTakesEitherTurn(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxPulls = 1 })
	pit := newTarpit(w.reg, func(path string) bool { return strings.Contains(path, "/blobs/") && !strings.Contains(path, "/many-9") })
	many := w.flood("many", 9)
	await.True(t, "all to have a fetch", func() bool {
		_, fetches := w.running()
		return fetches == len(many) && pit.in.Load() == 1
	})
	w.reg.push(t, "many-9:1", newImage(t, "amd64", "many-9:1"))
	last := of("many", w.request("many-9:1", "many-9:1"))
	w.pulling(last)
	await.True(t, "the last to have a fetch", func() bool {
		_, fetches := w.running()
		return fetches == len(many)+1
	})
	shared := of("one", last)
	shared.For = "b"
	w.pulling(shared)
	for _, req := range many {
		if got := w.pulling(req).Message; !strings.Contains(got, "waiting") {
			w.Forget(req.For) // the slot becomes free
		}
	}
	w.want(shared)
	w.want(last)
	if got := w.pulling(many[8]).Message; got == "" {
		t.Error("got no progress of the others, want them to go on")
	}
	close(pit.opened)
}

// A Bottle of another namespace leaves again: its turn no longer counts.
func TestLeavingGivesUpTheTurn(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxPulls = 1 })
	busy := w.slots.Enter("other")
	many := w.flood("many", 2)
	shared := of("one", many[1])
	shared.For = "b"
	w.pulling(shared)
	await.True(t, "both to wait", func() bool {
		_, fetches := w.running()
		return fetches == 2
	})
	w.Store.mu.Lock()
	f := w.jobs[w.requesters["b"].key].fetch
	before := w.namespacesOf(f)
	w.Store.mu.Unlock()
	w.Forget("b")
	w.Store.mu.Lock()
	after := w.namespacesOf(f)
	w.Store.mu.Unlock()
	if len(before) != 2 || len(after) != 1 || after[0] != "many" {
		t.Errorf("got turns of %v, then %v, want of both and then of the one that stayed", before, after)
	}
	busy.Release()
	for _, req := range many {
		w.want(req)
	}
	await.True(t, "all slots to be free", func() bool {
		all := w.slots.Enter("x")
		defer all.Release()
		return all.HasSlot()
	})
}
