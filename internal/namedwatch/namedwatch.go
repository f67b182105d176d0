// SPDX-License-Identifier: Apache-2.0

// Package namedwatch reads Secrets and ConfigMaps by name, with one watch for
// each named object that somebody uses, and says whom a change concerns. It
// never lists a namespace, let alone a cluster: an agent sees what its own
// Bottles name and nothing else. It writes nothing and keeps nothing beyond
// the last user of an object.
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

// String is KIND NAMESPACE/NAME.
func (r Ref) String() string { return string(r.Kind) + " " + r.Namespace + "/" + r.Name }

var (
	// ErrNotFound: the object is not there.
	ErrNotFound = errors.New("not found")
	// ErrNotYet: the watch has not shown the object's state yet; when it does,
	// its users are told.
	ErrNotYet = errors.New("not read yet")
)

// firstRead is how long Get waits for the first answer of a new watch.
const firstRead = 3 * time.Second

// Watches are the watches of one agent. Its methods may be called from many
// goroutines.
type Watches struct {
	getter  cache.Getter
	changed func(user types.NamespacedName)

	mu      sync.Mutex
	ctx     context.Context // of Start; nil before
	entries map[Ref]*entry
	uses    map[types.NamespacedName]map[Ref]bool
}

type entry struct {
	informer cache.SharedInformer
	stop     context.CancelFunc // nil until it runs
	users    map[types.NamespacedName]bool
	synced   chan struct{}
	late     bool  // somebody was told ErrNotYet
	lastErr  error // of the list or watch, until it succeeds
}

// New is a set of watches without any. getter is the REST client of the core
// group; changed is called, from any goroutine, with each user of an object
// that came, changed or went.
func New(getter cache.Getter, changed func(user types.NamespacedName)) *Watches {
	return &Watches{
		getter:  getter,
		changed: changed,
		entries: map[Ref]*entry{},
		uses:    map[types.NamespacedName]map[Ref]bool{},
	}
}

// Start runs the watches until ctx ends. Watches asked for earlier begin now.
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

// Use makes refs all that user uses: new ones are watched from now on, and
// what nobody uses any more is forgotten. No refs releases the user.
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

// Get returns the data of an object that somebody uses: ErrNotFound when it is
// not there, ErrNotYet when that is not known yet. The first Get after Use
// waits for the answer, for a few seconds at most.
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

// Len is the number of watches.
func (w *Watches) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.entries)
}

func (w *Watches) notYet(ref Ref, e *entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.late = true
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

// run starts the watch of e when Start was called; w.mu is held.
func (w *Watches) run(e *entry) {
	if w.ctx == nil {
		return
	}
	ctx, cancel := context.WithCancel(w.ctx)
	e.stop = cancel
	// Neither can fail: the informer was not started yet.
	_ = e.informer.SetTransform(dropManagedFields)
	_ = e.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		e.lastErr = err
	})
	_, _ = e.informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial {
				w.tell(e)
			}
		},
		UpdateFunc: func(_, _ any) { w.tell(e) },
		DeleteFunc: func(any) { w.tell(e) },
	})
	go e.informer.RunWithContext(ctx)
	go func() {
		if !cache.WaitForCacheSync(ctx.Done(), e.informer.HasSynced) {
			return
		}
		w.mu.Lock()
		close(e.synced)
		late := e.late
		w.mu.Unlock()
		if late {
			w.tell(e)
		}
	}()
}

// tell says to all users of e that it changed.
func (w *Watches) tell(e *entry) {
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
