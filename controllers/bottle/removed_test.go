// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"testing"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/sweep"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/test/await"
)

// informers give the test the handler that the Sweeper adds.
type informers struct {
	cache.Informers
	cache.Informer
	handler chan toolscache.ResourceEventHandler
}

func (i informers) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return i, nil
}

func (i informers) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	i.handler <- h
	return nil, nil
}

// stripped returns a node on which a Sweeper runs, and a Bottle that was deleted without
// a teardown, because somebody removed its finalizer. It also returns the function with
// which the informers report a removal to the Sweeper.
func stripped(t *testing.T, change func(w *world, s *sweep.Sweeper)) (w *world, removed func(o any)) {
	t.Helper()
	w, s := abandoned(t)
	if change != nil {
		change(w, s)
	}
	in := informers{handler: make(chan toolscache.ResourceEventHandler)}
	s.Informers = in
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w, (<-in.handler).OnDelete
}

// passes makes all passes that are requested within a short time, and returns their
// number.
func (w *world) passes() (n int) {
	w.t.Helper()
	for range 20 {
		for w.queue.Len() > 0 {
			req, _ := w.queue.Get()
			if _, err := w.r.Reconcile(w.t.Context(), req); err != nil {
				w.t.Error(err)
			}
			w.queue.Done(req)
			n++
		}
		time.Sleep(5 * time.Millisecond)
	}
	return n
}

func bottleOnNode() *v1alpha1.Bottle { return demo().Env("A", "b").Obj() }

// A Bottle without a finalizer is torn down when the API server reports its
// removal, not a grace period later.
func TestRemovedWithoutTeardown(t *testing.T) {
	w, removed := stripped(t, nil)
	removed(bottleOnNode())
	await.True(t, "a pass", func() bool { return w.queue.Len() > 0 })
	w.passes()
	w.wantEmpty()
	w.clock.Step(2 * time.Second)
	if n := w.passes(); n > 0 {
		t.Errorf("got %d more passes, want none", n)
	}
}

// A teardown that fails is tried again soon.
func TestRemovedAndTriedAgain(t *testing.T) {
	w, removed := stripped(t, func(w *world, _ *sweep.Sweeper) {
		w.faults.Fail("DeleteMachine", hosttest.Before, 2, errors.New("stuck"))
	})
	removed(bottleOnNode())
	for _, pause := range []time.Duration{0, time.Second, 2 * time.Second} {
		w.clock.Step(pause)
		await.True(t, "a pass", func() bool { return w.queue.Len() > 0 })
		w.passes()
	}
	w.wantEmpty()
}

// What does not prove that the Bottle was removed from this node is left to the
// sweep and its grace period.
func TestRemovalThatIsNone(t *testing.T) {
	tests := map[string]struct {
		change func(w *world, s *sweep.Sweeper)
		report func(b *v1alpha1.Bottle) any
	}{
		"a list that lacks it": {report: func(b *v1alpha1.Bottle) any {
			return toolscache.DeletedFinalStateUnknown{Key: "default/demo", Obj: b}
		}},
		"another Bottle": {report: func(b *v1alpha1.Bottle) any {
			b.UID = newUID
			return b
		}},
		"a dry run": {change: func(_ *world, s *sweep.Sweeper) { s.Mode = sweep.Report }},
		"another cluster": {change: func(w *world, s *sweep.Sweeper) {
			s.Live = otherCluster{w.api.Client}
		}},
		"a Bottle that is back": {change: func(w *world, _ *sweep.Sweeper) {
			if err := w.api.Create(w.t.Context(), demo().Obj()); err != nil {
				w.t.Fatal(err)
			}
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w, removed := stripped(t, tc.change)
			before := w.nodeState()
			var o any = bottleOnNode()
			if tc.report != nil {
				o = tc.report(bottleOnNode())
			}
			removed(o)
			w.passes()
			w.clock.Step(time.Second)
			w.passes()
			if got := w.nodeState(); len(got) != len(before) {
				t.Errorf("node: got %v, want %v", got, before)
			}
		})
	}
}

// A Bottle that somebody else's finalizer keeps is torn down although ours was
// removed.
func TestDeletedWithoutOurFinalizer(t *testing.T) {
	w := running(t)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Finalizers = []string{"example.com/x"} })
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	w.wantEmpty()
	if b := w.bottle(demoKey); len(b.Finalizers) != 1 || b.DeletionTimestamp.IsZero() {
		t.Errorf("got finalizers %v, want the other one to stay", b.Finalizers)
	}
}
