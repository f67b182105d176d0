// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// hanging facts are found once release lets a look go on.
type hanging struct {
	hosttest.Facts
	looks   atomic.Int32
	release chan struct{}
}

func (h *hanging) NodeFacts(ctx context.Context) []host.Fact {
	h.looks.Add(1)
	<-h.release
	return h.Facts.NodeFacts(ctx)
}

func TestGetDoesNotWaitForALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{release: make(chan struct{}, 1)}
		h.release <- struct{}{}
		k := NewFacts(h, clock.RealClock{})
		if got := k.Get(t.Context()); firstFailing(got) != nil || len(got) == 0 {
			t.Errorf("first facts: got %v, want a node in order", got)
		}
		h.Break("docker", "hangs")
		time.Sleep(factsEvery + time.Second)
		for range 3 {
			if got := k.Get(t.Context()); firstFailing(got) != nil {
				t.Errorf("facts during a look: got %v, want the last ones", got)
			}
		}
		synctest.Wait()
		if got := h.looks.Load(); got != 2 {
			t.Errorf("looks: got %d, want one more", got)
		}
		close(h.release)
		synctest.Wait()
		if f := firstFailing(k.Get(t.Context())); f == nil || f.Name != "docker" {
			t.Errorf("facts after the look: got %v, want docker to fail", f)
		}
	})
}

func TestTheFirstGetWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{release: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got := NewFacts(h, clock.RealClock{}).Get(ctx); got != nil {
			t.Errorf("got %v, want nil", got)
		}
		close(h.release)
	})
}

// Whoever finds a change first, everyone hears of it, once.
func TestEveryChangeIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f hosttest.Facts
		k := NewFacts(&f, clock.RealClock{})
		changes := 0
		k.OnChange(func() { changes++ })
		k.Get(t.Context())
		f.Break("kvm", "closed")
		time.Sleep(factsEvery + time.Second)
		k.Get(t.Context())
		synctest.Wait()
		if changes != 1 {
			t.Errorf("changes after a Get: got %d, want 1", changes)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = k.Start(ctx) }()
		synctest.Wait()
		if changes != 1 {
			t.Errorf("changes without news: got %d, want 1", changes)
		}
		f.Break("kvm", "")
		time.Sleep(factsEvery)
		synctest.Wait()
		if changes != 2 {
			t.Errorf("changes after a tick: got %d, want 2", changes)
		}
		cancel()
	})
}
