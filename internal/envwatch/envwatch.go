// SPDX-License-Identifier: Apache-2.0

// Package envwatch gets the values that the Bottles of an agent's node take from
// Secrets and ConfigMaps. It has one watch of bottleenvironments, which the manager serves, and
// keeps what it got while the manager is away. It reads no Secret and no
// ConfigMap itself, and stores nothing on the node.
package envwatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/backoff"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

const (
	// patience is how long Get waits for an answer that is probably on its way.
	patience = 3 * time.Second
	// connectTimeout bounds the time until the manager accepts a watch.
	connectTimeout = 30 * time.Second
	// silence is how long a watch may be silent. The manager sends a bookmark every
	// minute.
	silence = 3 * time.Minute
	// firstPause and longestPause are between attempts to watch.
	firstPause, longestPause = 500 * time.Millisecond, 10 * time.Second
)

// Options of a Source. All are required unless the comment says otherwise.
type Options struct {
	// Client is a client of the manager's API; see NewClient.
	Client rest.Interface
	// Changed is called with each Bottle whose environment changed.
	Changed func(bottle types.NamespacedName)
	Log     logr.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Source has the environments of this node's Bottles. Its methods may be called
// concurrently.
type Source struct {
	Options

	mu           sync.Mutex
	environments map[types.NamespacedName]*environment
	bytes, limit int // of the data of all environments
	// failed: the last attempt to watch failed, so that nothing is on its way.
	failed bool
	news   chan struct{} // closed and replaced when something was received
}

// New returns a Source without environments. Start fills it.
func New(o Options) *Source {
	return &Source{Options: o, environments: map[types.NamespacedName]*environment{}, limit: maxBytes, news: make(chan struct{})}
}

// Get returns the data of an object that b names: at least the keys that b names, as
// far as the object has them. The error is one of envsource's.
//
// While the watch works, Get waits a few seconds for what it does not know yet.
func (s *Source) Get(ctx context.Context, b *bottlev1alpha1.Bottle, ref namedwatch.Ref) (map[string][]byte, error) {
	key := types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		s.mu.Lock()
		env, news, failed := s.environments[key], s.news, s.failed
		s.mu.Unlock()
		o, err := env.get(b, ref)
		if err == nil {
			return o.data, nil
		}
		err = fmt.Errorf("%s: %w", ref, err)
		if !errors.Is(err, envsource.ErrNotYet) || failed {
			return nil, err
		}
		select {
		case <-news:
		case <-timer.C:
			return nil, err
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", ref, context.Cause(ctx))
		}
	}
}

// Peek returns what is known of an object that b names. The error is one of envsource's.
func (s *Source) Peek(b *bottlev1alpha1.Bottle, ref namedwatch.Ref) (envsource.Object, error) {
	s.mu.Lock()
	env := s.environments[types.NamespacedName{Namespace: b.Namespace, Name: b.Name}]
	s.mu.Unlock()
	o, err := env.get(b, ref)
	if err != nil {
		return envsource.Object{}, fmt.Errorf("%s: %w", ref, err)
	}
	return envsource.Object{Data: o.data, ResourceVersion: o.resourceVersion}, nil
}

// Start watches until ctx ends.
func (s *Source) Start(ctx context.Context) error {
	logged := ""
	for failures := 0; ctx.Err() == nil; {
		complete, err := s.watch(ctx)
		s.Metrics.connected(0)
		if ctx.Err() != nil {
			break
		}
		if complete {
			failures, logged = 0, ""
		}
		failures++
		if err != nil {
			s.fail()
			if text := err.Error(); text != logged {
				s.Log.Error(err, "The watch of bottleenvironments failed; machines keep running with the values that the agent has")
				logged = text
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait.Jitter(backoff.After(failures, firstPause, longestPause), 0.5)):
		}
	}
	return nil
}

// fail ends the wait of each Get.
func (s *Source) fail() {
	s.Metrics.failed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
	s.tell()
}

// tell wakes each Get. The caller holds the mutex.
func (s *Source) tell() {
	close(s.news)
	s.news = make(chan struct{})
}

// watch runs one watch until it ends. It says whether the watch was complete: it got
// the whole present state.
func (s *Source) watch(ctx context.Context) (complete bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(connectTimeout, func() { cancel(errors.New("the manager did not answer in time")) })
	defer limit.Stop()
	events, err := s.Client.Get().Resource("bottleenvironments").
		VersionedParams(&metav1.ListOptions{Watch: true, AllowWatchBookmarks: true}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		return false, fmt.Errorf("watch environments: %w", errors.Join(err, context.Cause(ctx)))
	}
	defer events.Stop()
	seen := map[types.NamespacedName]bool{}
	for {
		limit.Reset(silence)
		select {
		case <-ctx.Done():
			return complete, fmt.Errorf("watch environments: %w", context.Cause(ctx))
		case event, ok := <-events.ResultChan():
			if !ok { // the other side ends each watch after some time
				if err := context.Cause(ctx); err != nil {
					return complete, fmt.Errorf("watch environments: %w", err)
				}
				if !complete {
					return false, errors.New("watch environments: it ended before the present state was complete")
				}
				return true, nil
			}
			s.Metrics.received()
			first, err := s.apply(event, seen)
			if err != nil {
				return complete, err
			}
			if first {
				complete, seen = true, nil
				s.Metrics.connected(1)
			}
		}
	}
}

// apply applies an event. seen has the Bottles of the present state so far, and is nil
// once that is complete. first says that this event completed it.
func (s *Source) apply(event watch.Event, seen map[types.NamespacedName]bool) (first bool, err error) {
	if event.Type == watch.Error {
		return false, fmt.Errorf("watch environments: %w", apierrors.FromObject(event.Object))
	}
	env, ok := event.Object.(*v1alpha1.BottleEnvironment)
	if !ok {
		return false, fmt.Errorf("watch environments: got %T, want a BottleEnvironment", event.Object)
	}
	key := types.NamespacedName{Namespace: env.Namespace, Name: env.Name}
	switch event.Type {
	case watch.Added, watch.Modified:
		if seen != nil {
			seen[key] = true
		}
		s.put(key, environmentOf(env))
	case watch.Deleted:
		delete(seen, key)
		s.remove(key, env.BottleUID)
	case watch.Bookmark:
		if seen != nil && env.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			s.keepOnly(seen)
			return true, nil
		}
	}
	return false, nil
}

func (s *Source) put(key types.NamespacedName, now *environment) {
	s.mu.Lock()
	before := s.environments[key]
	if before == nil && len(s.environments) >= maxEnvironments {
		s.mu.Unlock()
		s.Log.Info("Ignored an environment, because there are too many", "limit", maxEnvironments, "namespace", key.Namespace, "bottle", key.Name)
		return
	}
	now = now.after(before)
	if before != nil {
		s.bytes -= before.bytes
	}
	if s.bytes+now.bytes > s.limit {
		now = now.withoutData()
	}
	s.bytes += now.bytes
	s.environments[key] = now
	s.failed = false
	s.tell()
	s.Metrics.known(len(s.environments), s.bytes)
	s.mu.Unlock()
	if before == nil || !equal(before, now) {
		s.Changed(key)
	}
}

// remove removes the environment of a Bottle. A Bottle of the same name may be newer.
func (s *Source) remove(key types.NamespacedName, uid types.UID) {
	s.mu.Lock()
	before := s.environments[key]
	if before == nil || before.uid != uid {
		s.mu.Unlock()
		return
	}
	s.drop(key)
	s.mu.Unlock()
	s.Changed(key)
}

// drop forgets an environment. The caller holds the mutex.
func (s *Source) drop(key types.NamespacedName) {
	s.bytes -= s.environments[key].bytes
	delete(s.environments, key)
	s.Metrics.known(len(s.environments), s.bytes)
}

// keepOnly forgets what the manager did not name in its present state.
func (s *Source) keepOnly(seen map[types.NamespacedName]bool) {
	s.mu.Lock()
	s.failed = false
	s.tell()
	var gone []types.NamespacedName
	for key := range maps.Clone(s.environments) {
		if !seen[key] {
			s.drop(key)
			gone = append(gone, key)
		}
	}
	s.mu.Unlock()
	for _, key := range gone {
		s.Changed(key)
	}
}
