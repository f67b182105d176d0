// SPDX-License-Identifier: Apache-2.0

package environments

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

// maxWatches bounds the watches of one node. Its agent needs one, and a second one
// while it reconnects.
const maxWatches = 16

// watcher is one watch. It keeps no queue: it compares what it sent with what the
// store has now. A slow client therefore costs no memory, misses only what is out of
// date, and is never sent what its node may no longer know.
type watcher struct {
	store     *Store
	node      string
	selects   func(*v1alpha1.BottleEnvironment) bool
	bookmarks bool // send them
	result    chan watch.Event
	wake      chan struct{}
	cancel    context.CancelFunc

	sent map[types.NamespacedName]sent
	// last is the highest version that was sent, start that of the store at the start.
	last, start uint64
	// initial are the Bottles of the present state at the start that were not sent
	// yet. It is nil once the client was told that this state is complete.
	initial map[types.NamespacedName]bool
	// stalled fires if the client does not accept an event. It runs while waits is
	// true.
	stalled *time.Timer
	waits   bool
}

type sent struct {
	uid     types.UID
	version uint64
}

// errTooMany is returned for a watch above maxWatches.
var errTooMany = errorString("too many watches of this node's environments")

type errorString string

func (e errorString) Error() string { return string(e) }

// watch starts a watch that ends with ctx.
func (s *Store) watch(ctx context.Context, node string, bookmarks bool, selects func(*v1alpha1.BottleEnvironment) bool) (*watcher, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{
		store: s, node: node, selects: selects, bookmarks: bookmarks, cancel: cancel,
		result: make(chan watch.Event), wake: make(chan struct{}, 1),
		sent: map[types.NamespacedName]sent{}, stalled: time.NewTimer(s.timing.stall),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchers[node]) >= maxWatches {
		cancel()
		return nil, errTooMany
	}
	if s.watchers[node] == nil {
		s.watchers[node] = map[*watcher]bool{}
	}
	s.watchers[node][w] = true
	w.initial, w.start = map[types.NamespacedName]bool{}, s.version
	for key, env := range s.nodes[node] {
		if selects(env) {
			w.initial[key] = true
		}
	}
	go w.run(ctx)
	return w, nil
}

// ResultChan returns the events. It is closed when the watch has ended.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

// Stop ends the watch.
func (w *watcher) Stop() { w.cancel() }

func (w *watcher) run(ctx context.Context) {
	defer close(w.result)
	defer w.forget()
	tick := time.NewTicker(w.store.timing.bookmark)
	defer tick.Stop()
	for {
		events := w.behind()
		var ok bool
		switch {
		case len(events) > 0:
			ok = w.sendAll(ctx, events)
		case w.initial != nil: // there was nothing to send
			ok = w.endInitial(ctx)
		default:
			select {
			case <-w.wake:
				ok = true
			case <-tick.C:
				ok = w.sendBookmark(ctx, nil)
			case <-ctx.Done():
			}
		}
		if !ok {
			return
		}
	}
}

func (w *watcher) forget() {
	w.cancel()
	w.stalled.Stop()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.watchers[w.node], w)
	if len(w.store.watchers[w.node]) == 0 {
		delete(w.store.watchers, w.node)
	}
}

// behind returns the events that the client lacks. Deletions come first, then the oldest change, so that an object that
// keeps changing does not hold up the others.
func (w *watcher) behind() []watch.Event {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	set := w.store.nodes[w.node]
	var deleted, changed []watch.Event
	for key, was := range w.sent {
		if env := set[key]; env == nil || env.BottleUID != was.uid {
			deleted = append(deleted, watch.Event{Type: watch.Deleted, Object: tombstone(key, was, w.last)})
		}
	}
	for key, env := range set {
		version := versionOf(env)
		was, ok := w.sent[key]
		known := ok && was.uid == env.BottleUID // otherwise deleted has the older Bottle
		if known && was.version == version || !w.selects(env) {
			continue
		}
		event := watch.Event{Type: watch.Added, Object: shallow(env)}
		if known {
			event.Type = watch.Modified
		}
		changed = append(changed, event)
	}
	slices.SortFunc(changed, func(a, b watch.Event) int {
		return cmp.Compare(versionOf(a.Object.(*v1alpha1.BottleEnvironment)), versionOf(b.Object.(*v1alpha1.BottleEnvironment)))
	})
	for key := range w.initial {
		if set[key] == nil {
			delete(w.initial, key)
		}
	}
	return append(deleted, changed...)
}

// sendAll sends events until all are sent or something has changed. It returns false
// if the watch has ended.
func (w *watcher) sendAll(ctx context.Context, events []watch.Event) bool {
	for _, event := range events {
		if w.initial != nil && len(w.initial) == 0 {
			return w.endInitial(ctx)
		}
		// Without this, a select could prefer a client that waits to a change.
		select {
		case <-w.wake:
			return true
		default:
		}
		w.startWaiting()
		select {
		case <-w.wake:
			return true
		case w.result <- event:
			w.accepted(event)
		case <-w.stalled.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// startWaiting starts the time in which the client must accept an event, unless it
// runs already.
func (w *watcher) startWaiting() {
	if !w.waits {
		w.waits = true
		w.stalled.Reset(w.store.timing.stall)
	}
}

// accepted records that the client accepted an event.
func (w *watcher) accepted(event watch.Event) {
	w.waits = false
	env := event.Object.(*v1alpha1.BottleEnvironment)
	key := types.NamespacedName{Namespace: env.Namespace, Name: env.Name}
	if event.Type == watch.Deleted {
		delete(w.sent, key)
		return
	}
	version := versionOf(env)
	w.sent[key] = sent{uid: env.BottleUID, version: version}
	w.last = max(w.last, version)
	delete(w.initial, key)
}

// endInitial tells the client that it has the present state.
func (w *watcher) endInitial(ctx context.Context) bool {
	w.initial = nil
	w.last = max(w.last, w.start) // what was not sent is newer
	return w.sendBookmark(ctx, map[string]string{metav1.InitialEventsAnnotationKey: "true"})
}

// sendBookmark sends a bookmark, if the client wants any. It returns false if the
// watch has ended.
func (w *watcher) sendBookmark(ctx context.Context, annotations map[string]string) bool {
	if !w.bookmarks {
		return true
	}
	mark := &v1alpha1.BottleEnvironment{
		TypeMeta:   typeMeta("BottleEnvironment"),
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: formatVersion(w.last), Annotations: annotations},
	}
	w.startWaiting()
	select {
	case w.result <- watch.Event{Type: watch.Bookmark, Object: mark}:
		w.waits = false
		return true
	case <-w.stalled.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// shallow returns a copy of env whose metadata an encoder may change. The data is
// shared.
func shallow(env *v1alpha1.BottleEnvironment) *v1alpha1.BottleEnvironment {
	c := *env
	return &c
}

// tombstone is the object of a deletion, without data.
func tombstone(key types.NamespacedName, was sent, version uint64) *v1alpha1.BottleEnvironment {
	return &v1alpha1.BottleEnvironment{
		TypeMeta:   typeMeta("BottleEnvironment"),
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: was.uid, ResourceVersion: formatVersion(version)},
		BottleUID:  was.uid,
	}
}

func versionOf(env *v1alpha1.BottleEnvironment) uint64 {
	v, err := strconv.ParseUint(env.ResourceVersion, 10, 64)
	if err != nil {
		return 0 // cannot happen: renew wrote it
	}
	return v
}
