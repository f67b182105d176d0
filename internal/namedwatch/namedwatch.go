// SPDX-License-Identifier: Apache-2.0

// Package namedwatch reads Secrets and ConfigMaps by name. It runs one watch for
// each named object that has users, and notifies the users of changes. It never
// lists a namespace, let alone a cluster: an agent sees only what its own Bottles
// name. It writes nothing, and drops an object with its last user.
package namedwatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Kind is the resource of a named object.
type Kind string

// Kinds that can be watched.
const (
	Secret    Kind = "secrets"
	ConfigMap Kind = "configmaps"
)

// Ref names one object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

// String returns KIND NAMESPACE/NAME.
func (r Ref) String() string { return string(r.Kind) + " " + r.Namespace + "/" + r.Name }

var (
	// ErrNotFound means that the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrNotYet means that the watch has not received the object's state yet.
	// Its users are notified when it does.
	ErrNotYet = errors.New("not read yet")
)

// firstRead is how long Get waits for the first answer of a new watch.
const firstRead = 3 * time.Second

// Watches are the watches of one agent. Its methods may be called concurrently.
type Watches struct {
	getter  cache.Getter
	changed func(user types.NamespacedName)

	mu      sync.Mutex
	ctx     context.Context // of Start; nil before
	entries map[Ref]*entry
	uses    map[types.NamespacedName]map[Ref]bool
}

type entry struct {
	informer     cache.SharedInformer
	stop         context.CancelFunc // nil until the watch runs
	users        map[types.NamespacedName]bool
	synced       chan struct{}
	notifyOnSync bool  // a Get returned ErrNotYet
	lastErr      error // of the list or watch, until it succeeds
}

// New returns an empty set of watches. getter is the REST client of the core
// group. changed is called, from any goroutine, with each user of an object that
// was created, changed or deleted.
func New(getter cache.Getter, changed func(user types.NamespacedName)) *Watches {
	return &Watches{
		getter:  getter,
		changed: changed,
		entries: map[Ref]*entry{},
		uses:    map[types.NamespacedName]map[Ref]bool{},
	}
}

// Start runs the watches until ctx ends, including those that Use added earlier.
func (w *Watches) Start(ctx context.Context) error {
	w.mu.Lock()
	w.ctx = ctx
	for _, e := range w.entries {
		w.run(e)
	}
	w.mu.Unlock()
	<-ctx.Done()
	return nil
}

// Use replaces the set of objects that a user needs. It starts a watch for each
// new object, and stops the watches of objects without users. Empty refs remove
// the user.
func (w *Watches) Use(user types.NamespacedName, refs []Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := make(map[Ref]bool, len(refs))
	for _, ref := range refs {
		now[ref] = true
		e := w.entries[ref]
		if e == nil {
			e = w.newEntry(ref)
			w.entries[ref] = e
			w.run(e)
		}
		e.users[user] = true
	}
	for ref := range w.uses[user] {
		if now[ref] {
			continue
		}
		e := w.entries[ref]
		delete(e.users, user)
		if len(e.users) > 0 {
			continue
		}
		if e.stop != nil {
			e.stop()
		}
		delete(w.entries, ref)
	}
	if len(now) == 0 {
		delete(w.uses, user)
		return
	}
	w.uses[user] = now
}

// Get returns the data of an object that has users. It returns ErrNotFound if
// the object does not exist, and ErrNotYet if that is not known yet. Until the
// first answer of the watch, Get waits a few seconds for it.
func (w *Watches) Get(ctx context.Context, ref Ref) (map[string][]byte, error) {
	w.mu.Lock()
	e := w.entries[ref]
	w.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("%s: not in use", ref)
	}
	timer := time.NewTimer(firstRead)
	defer timer.Stop()
	select {
	case <-e.synced:
	case <-timer.C:
		return nil, w.notYet(ref, e)
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", ref, context.Cause(ctx))
	}
	obj, ok, err := e.informer.GetStore().GetByKey(ref.Namespace + "/" + ref.Name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", ref, ErrNotFound)
	}
	return data(obj), nil
}

// Len returns the number of watches.
func (w *Watches) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.entries)
}

func (w *Watches) notYet(ref Ref, e *entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.notifyOnSync = true
	if e.lastErr != nil {
		return fmt.Errorf("%s: %w: %w", ref, ErrNotYet, e.lastErr)
	}
	return fmt.Errorf("%s: %w", ref, ErrNotYet)
}

func (w *Watches) newEntry(ref Ref) *entry {
	var kind runtime.Object = &corev1.ConfigMap{}
	if ref.Kind == Secret {
		kind = &corev1.Secret{}
	}
	lw := cache.NewListWatchFromClient(w.getter, string(ref.Kind), ref.Namespace,
		fields.OneTermEqualSelector("metadata.name", ref.Name))
	return &entry{
		informer: cache.NewSharedInformer(lw, kind, 0),
		users:    map[types.NamespacedName]bool{},
		synced:   make(chan struct{}),
	}
}

// run starts the watch of e, unless Start was not called yet. The caller holds
// w.mu.
func (w *Watches) run(e *entry) {
	if w.ctx == nil {
		return
	}
	ctx, cancel := context.WithCancel(w.ctx)
	e.stop = cancel
	// Neither can fail, because the informer is not started yet.
	_ = e.informer.SetTransform(dropManagedFields)
	_ = e.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		e.lastErr = err
	})
	_, _ = e.informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial {
				w.notify(e)
			}
		},
		UpdateFunc: func(_, _ any) { w.notify(e) },
		DeleteFunc: func(any) { w.notify(e) },
	})
	go e.informer.RunWithContext(ctx)
	go func() {
		if !cache.WaitForCacheSync(ctx.Done(), e.informer.HasSynced) {
			return
		}
		w.mu.Lock()
		close(e.synced)
		notify := e.notifyOnSync
		w.mu.Unlock()
		if notify {
			w.notify(e)
		}
	}()
}

// notify notifies all users of e of a change.
func (w *Watches) notify(e *entry) {
	w.mu.Lock()
	users := make([]types.NamespacedName, 0, len(e.users))
	for u := range e.users {
		users = append(users, u)
	}
	w.mu.Unlock()
	for _, u := range users {
		w.changed(u)
	}
}

func dropManagedFields(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

func data(obj any) map[string][]byte {
	switch o := obj.(type) {
	case *corev1.Secret:
		return o.Data
	case *corev1.ConfigMap:
		out := make(map[string][]byte, len(o.Data)+len(o.BinaryData))
		for k, v := range o.Data {
			out[k] = []byte(v)
		}
		for k, v := range o.BinaryData {
			out[k] = v
		}
		return out
	}
	return nil
}
