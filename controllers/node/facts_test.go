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

// hanging facts are inspected only once release lets the inspection continue.
type hanging struct {
	hosttest.Facts
	inspections atomic.Int32
	release     chan struct{}
}

func (h *hanging) NodeFacts(ctx context.Context) []host.Fact {
	h.inspections.Add(1)
	<-h.release
	return h.Facts.NodeFacts(ctx)
}

func TestGetDoesNotWaitForAnInspection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{release: make(chan struct{}, 1)}
		h.release <- struct{}{}
		k := NewFacts(h, clock.RealClock{})
		if got := k.Get(t.Context()); firstFailing(got) != nil || len(got) == 0 {
			t.Errorf("first facts: got %v, want no failing fact", got)
		}
		h.Break("docker", "hangs")
		time.Sleep(factsInterval + time.Second)
		for range 3 {
			if got := k.Get(t.Context()); firstFailing(got) != nil {
				t.Errorf("facts during an inspection: got %v, want the last ones", got)
			}
		}
		synctest.Wait()
		if got := h.inspections.Load(); got != 2 {
			t.Errorf("inspections: got %d, want 2", got)
		}
		close(h.release)
		synctest.Wait()
		if f := firstFailing(k.Get(t.Context())); f == nil || f.Name != "docker" {
			t.Errorf("facts after the inspection: got %v, want docker to fail", f)
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

// A change is reported once, whether Get or Start finds it first.
func TestEveryChangeIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f hosttest.Facts
		k := NewFacts(&f, clock.RealClock{})
		changes := 0
		k.OnChange(func() { changes++ })
		k.Get(t.Context())
		f.Break("kvm", "closed")
		time.Sleep(factsInterval + time.Second)
		k.Get(t.Context())
		synctest.Wait()
		if changes != 1 {
			t.Errorf("changes after a Get: got %d, want 1", changes)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = k.Start(ctx) }()
		synctest.Wait()
		if changes != 1 {
			t.Errorf("changes after Start without a change: got %d, want 1", changes)
		}
		f.Break("kvm", "")
		time.Sleep(factsInterval)
		synctest.Wait()
		if changes != 2 {
			t.Errorf("changes after a tick: got %d, want 2", changes)
		}
		cancel()
	})
}

// The inspection that runs when Refresh is called may have missed what changed.
func TestRefreshInspectsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hanging{release: make(chan struct{}, 2)}
		k := NewFacts(h, clock.RealClock{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = k.Start(ctx) }()
		synctest.Wait()
		k.Refresh()
		synctest.Wait()
		h.release <- struct{}{}
		h.release <- struct{}{}
		synctest.Wait()
		if got := h.inspections.Load(); got != 2 {
			t.Errorf("inspections: got %d, want the running one and another after it", got)
		}
		cancel()
	})
}
