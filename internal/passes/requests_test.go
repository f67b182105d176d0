// SPDX-License-Identifier: Apache-2.0

package passes

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"botbottle.dev/bottle-operator/internal/host"
)

// TestContinueComesFirst checks that the passes of Bottles whose jobs have ended
// come before all others.
func TestContinueComesFirst(t *testing.T) {
	registry := &Registry{}
	for _, name := range []string{"new-1", "new-2", "started"} {
		registry.Remember(host.Owner{UID: name + "-uid-0000", Namespace: "ns", Name: name, Slug: name})
	}
	q := priorityqueue.New[reconcile.Request]("test")
	defer q.ShutDown()
	r := NewRequests(registry)
	r.Enqueue(types.NamespacedName{Namespace: "ns", Name: "unbound"}) // there is no queue yet
	r.Bind(q)
	r.EnqueueUID("new-1-uid-0000")
	r.EnqueueUID("started-uid-0000")
	r.EnqueueUID("new-2-uid-0000")
	r.ContinueUID("started-uid-0000")
	r.ContinueUID("unknown")
	var got []string
	for range 3 {
		request, _ := q.Get()
		got = append(got, request.Name)
		q.Done(request)
	}
	if want := []string{"started", "new-1", "new-2"}; !slices.Equal(got, want) {
		t.Errorf("order: got %v, want %v", got, want)
	}
	if n := q.Len(); n != 0 {
		t.Errorf("queue: got %d more requests, want none", n)
	}
}

// TestContinueDoesNotLast checks that a Bottle whose pass continued after a job
// has no advantage later, if the pass requests the ordinary priority.
func TestContinueDoesNotLast(t *testing.T) {
	registry := &Registry{}
	for _, name := range []string{"old", "new"} {
		registry.Remember(host.Owner{UID: name + "-uid-0000", Namespace: "ns", Name: name, Slug: name})
	}
	q := priorityqueue.New[reconcile.Request]("test")
	defer q.ShutDown()
	r := NewRequests(registry)
	r.Bind(q)
	r.ContinueUID("old-uid-0000")
	request, _, _ := q.GetWithPriority()
	// What controller-runtime does with a result of RequeueAfter.
	ordinary := OrdinaryPriority
	q.AddWithOpts(priorityqueue.AddOpts{After: time.Hour, Priority: &ordinary}, request)
	q.Done(request)
	r.EnqueueUID("new-uid-0000")
	r.EnqueueUID("old-uid-0000")
	for range 2 {
		if request, priority, _ := q.GetWithPriority(); priority != OrdinaryPriority {
			t.Errorf("%s: got priority %d, want %d", request.Name, priority, OrdinaryPriority)
		}
	}
}
