// SPDX-License-Identifier: Apache-2.0

package namedwatch

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// entry is one named object. It is the store that its reflector fills. The mutex of
// its Watches guards its fields.
type entry struct {
	watches *Watches
	ref     Ref
	stop    context.CancelFunc // nil until the watch runs
	users   map[types.NamespacedName]bool
	object  Object
	// refused is the API server's refusal of a list or watch. It is nil again once a
	// watch was accepted.
	refused error
}

func newEntry(w *Watches, ref Ref) *entry {
	return &entry{watches: w, ref: ref, users: map[types.NamespacedName]bool{}}
}

// run starts the watch. The caller holds the mutex.
func (e *entry) run(ctx context.Context) {
	ctx, e.stop = context.WithCancel(ctx)
	var kind runtime.Object = &corev1.ConfigMap{}
	if e.ref.Kind == Secret {
		kind = &corev1.Secret{}
	}
	lw := cache.NewListWatchFromClient(e.watches.getter, string(e.ref.Kind), e.ref.Namespace,
		fields.OneTermEqualSelector("metadata.name", e.ref.Name))
	reflector := cache.NewReflectorWithOptions(&noticing{ListWatch: lw, entry: e},
		kind, e, cache.ReflectorOptions{Name: e.ref.String()})
	go reflector.RunWithContext(ctx)
}

// noticing tells an entry whether the API server refuses to answer.
type noticing struct {
	*cache.ListWatch
	entry *entry
}

func (n *noticing) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := n.ListWatch.ListWithContext(ctx, options)
	if isRefusal(err) {
		n.entry.refuse(err)
	}
	return list, err
}

func (n *noticing) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	events, err := n.ListWatch.WatchWithContext(ctx, options)
	if err == nil || isRefusal(err) {
		n.entry.refuse(err)
	}
	return events, err
}

// refuse records a refusal, or, with nil, that there is none any more.
func (e *entry) refuse(err error) {
	e.watches.update(e, func() bool {
		changed := (e.refused == nil) != (err == nil)
		e.refused = err
		return changed
	})
}

// set records what a list or an event said. obj is nil if the object does not exist.
func (e *entry) set(obj any) {
	now := Object{State: NotFound}
	if m, err := meta.Accessor(obj); err == nil {
		if m.GetName() != e.ref.Name || m.GetNamespace() != e.ref.Namespace {
			return // nobody asked for it
		}
		now = Object{State: Present, ResourceVersion: m.GetResourceVersion(), Data: data(obj)}
	}
	e.watches.update(e, func() bool {
		before := e.object
		e.object = now
		return before.State != now.State || before.ResourceVersion != now.ResourceVersion
	})
}

// Add is called with a new object.
func (e *entry) Add(obj any) error {
	e.set(obj)
	return nil
}

// Update is called with a changed object.
func (e *entry) Update(obj any) error {
	e.set(obj)
	return nil
}

// Delete is called with an object that was deleted.
func (e *entry) Delete(any) error {
	e.set(nil)
	return nil
}

// Replace is called with all objects of a list, of which there is at most one.
func (e *entry) Replace(list []any, _ string) error {
	if len(list) == 0 {
		e.set(nil)
	}
	for _, obj := range list {
		e.set(obj)
	}
	return nil
}

// Resync does nothing: changed is called for changes only.
func (e *entry) Resync() error { return nil }
