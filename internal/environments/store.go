// SPDX-License-Identifier: Apache-2.0

// Package environments serves the resource bottleenvironments of the manager's
// aggregated API. The agent of each node gets the values that the Bottles of its node
// take from Secrets and ConfigMaps, and nothing else. Each replica of the manager has a store
// of its own, in memory. The package writes nothing, and logs no values.
package environments

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// Objects reads Secrets and ConfigMaps by name. *namedwatch.Watches implements it.
type Objects interface {
	// Use replaces the set of objects that a Bottle names.
	Use(bottle types.NamespacedName, refs []namedwatch.Ref)
	// Look returns what is known now of an object in use.
	Look(ref namedwatch.Ref) namedwatch.Object
}

// Store has the environments of all Bottles that are on a node. Its methods may be
// called concurrently.
type Store struct {
	watches *namedwatch.Watches // nil in some tests
	objects Objects
	timing  timing

	mu       sync.Mutex
	version  uint64 // of the last change
	subjects map[types.NamespacedName]*subject
	nodes    map[string]environmentSet
	watchers map[string]map[*watcher]bool
	synced   []func() bool
}

type environmentSet map[types.NamespacedName]*v1alpha1.BottleEnvironment

// timing has the times that tests shorten.
type timing struct {
	// bookmark is the interval between bookmarks while nothing changes.
	bookmark time.Duration
	// stall is how long a watcher may take to accept an event.
	stall time.Duration
}

// New returns an empty store that reads Secrets and ConfigMaps with cfg, once Start
// runs.
func New(cfg *rest.Config) (*Store, error) {
	cfg = rest.CopyConfig(cfg)
	// Each object costs one or two requests, once, and one more every few minutes.
	// Placement must not wait behind them.
	cfg.QPS, cfg.Burst = 100, 500
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of Secrets and ConfigMaps: %w", err)
	}
	s := newStore(nil)
	s.watches = namedwatch.New(core.RESTClient(), s.refresh)
	s.objects = s.watches
	return s, nil
}

func newStore(objects Objects) *Store {
	return &Store{
		objects: objects,
		timing:  timing{bookmark: time.Minute, stall: 30 * time.Second},
		// Versions also rise from one process to the next.
		version:  uint64(time.Now().UnixMicro()),
		subjects: map[types.NamespacedName]*subject{},
		nodes:    map[string]environmentSet{},
		watchers: map[string]map[*watcher]bool{},
	}
}

// Start reads the named objects until ctx ends.
func (s *Store) Start(ctx context.Context) error { return s.watches.Start(ctx) }

// NeedLeaderElection returns false: every replica serves.
func (s *Store) NeedLeaderElection() bool { return false }

// Informer is a part of controller-runtime's cache.Informer.
type Informer interface {
	AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
}

// Follow makes the store follow the Bottles of an informer.
func (s *Store) Follow(bottles Informer) error {
	reg, err := bottles.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    s.put,
		UpdateFunc: func(_, obj any) { s.put(obj) },
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if b, ok := obj.(*bottlev1alpha1.Bottle); ok {
				s.set(types.NamespacedName{Namespace: b.Namespace, Name: b.Name}, nil)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("follow Bottles: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = append(s.synced, reg.HasSynced)
	return nil
}

// HasSynced says whether the store knows all Bottles.
func (s *Store) HasSynced() bool {
	s.mu.Lock()
	synced := s.synced
	s.mu.Unlock()
	for _, f := range synced {
		if !f() {
			return false
		}
	}
	return true
}

func (s *Store) put(obj any) {
	if b, ok := obj.(*bottlev1alpha1.Bottle); ok {
		s.set(types.NamespacedName{Namespace: b.Namespace, Name: b.Name}, subjectOf(b))
	}
}

// set records a Bottle, or, with nil, that it has no environment.
func (s *Store) set(key types.NamespacedName, now *subject) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.subjects[key]
	if before == nil && now == nil {
		return
	}
	if before != nil && (now == nil || now.node != before.node) {
		s.remove(key, before.node)
	}
	if now == nil {
		delete(s.subjects, key)
		s.objects.Use(key, nil)
		return
	}
	s.subjects[key] = now
	refs := make([]namedwatch.Ref, 0, len(now.needs))
	for _, n := range now.needs {
		refs = append(refs, n.Ref)
	}
	s.objects.Use(key, refs)
	s.renew(key, now)
}

// refresh is called when an object that a Bottle names has changed.
func (s *Store) refresh(key types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.subjects[key]; now != nil {
		s.renew(key, now)
	}
}

// renew makes the environment of a Bottle anew. The caller holds the mutex.
func (s *Store) renew(key types.NamespacedName, now *subject) {
	env := &v1alpha1.BottleEnvironment{
		TypeMeta:           typeMeta("BottleEnvironment"),
		ObjectMeta:         metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: now.uid},
		BottleUID:          now.uid,
		ObservedGeneration: now.generation,
		Objects:            now.objects(s.objects.Look),
	}
	if old := s.nodes[now.node][key]; old != nil && same(old, env) {
		return
	}
	s.version++
	env.ResourceVersion = formatVersion(s.version)
	if s.nodes[now.node] == nil {
		s.nodes[now.node] = environmentSet{}
	}
	s.nodes[now.node][key] = env
	s.wake(now.node)
}

// remove removes the environment of a Bottle from a node. The caller holds the mutex.
func (s *Store) remove(key types.NamespacedName, node string) {
	s.version++
	delete(s.nodes[node], key)
	if len(s.nodes[node]) == 0 {
		delete(s.nodes, node)
	}
	s.wake(node)
}

func (s *Store) wake(node string) {
	for w := range s.watchers[node] {
		select {
		case w.wake <- struct{}{}:
		default: // it is going to look anyway
		}
	}
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}
}

func formatVersion(v uint64) string { return strconv.FormatUint(v, 10) }
