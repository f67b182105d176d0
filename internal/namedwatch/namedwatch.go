// SPDX-License-Identifier: Apache-2.0

// Package namedwatch reads Secrets and ConfigMaps by name. It runs one watch for
// each named object that has users, and notifies the users of changes. It never
// lists a namespace, let alone a cluster. It writes nothing, and drops an object with
// its last user.
package namedwatch

import (
	"context"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// State is what is known of an object.
type State int

// States of an object.
const (
	// Unread: the API server has not answered yet.
	Unread State = iota
	Present
	NotFound
	// Forbidden: the API server refuses to answer.
	Forbidden
)

// Object is what is known of a named object. Its data must not be modified.
type Object struct {
	State           State
	ResourceVersion string
	Data            map[string][]byte
}

// Watches are watches of named objects. Its methods may be called concurrently.
type Watches struct {
	getter  cache.Getter
	changed func(user types.NamespacedName)

	mu      sync.Mutex
	ctx     context.Context // of Start; nil before
	entries map[Ref]*entry
	uses    map[types.NamespacedName]map[Ref]bool
}

// New returns an empty set of watches. getter is the REST client of the core
// group. changed is called, from any goroutine, with each user of an object whose
// state or data changed.
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
		e.run(ctx)
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
			e = newEntry(w, ref)
			w.entries[ref] = e
			if w.ctx != nil {
				e.run(w.ctx)
			}
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

// Look returns what is known now of an object that has users.
func (w *Watches) Look(ref Ref) Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.entries[ref]
	switch {
	case e == nil:
		return Object{}
	case e.refused != nil:
		return Object{State: Forbidden}
	}
	return e.object
}

// Len returns the number of watches.
func (w *Watches) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.entries)
}

// Totals returns the number of objects in each state, and the bytes of their data.
func (w *Watches) Totals() (states map[State]int, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	states = map[State]int{}
	for _, e := range w.entries {
		state := e.object.State
		if e.refused != nil {
			state = Forbidden
		}
		states[state]++
		for key, value := range e.object.Data {
			bytes += len(key) + len(value)
		}
	}
	return states, bytes
}

// update changes e with change, and then notifies e's users if change returned true.
func (w *Watches) update(e *entry, change func() bool) {
	w.mu.Lock()
	var users []types.NamespacedName
	if change() {
		users = slices.Collect(maps.Keys(e.users))
	}
	w.mu.Unlock()
	for _, u := range users {
		w.changed(u)
	}
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

// isRefusal says whether an error means that the reader lacks a right.
func isRefusal(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }
