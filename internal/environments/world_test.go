// SPDX-License-Identifier: Apache-2.0

package environments

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/test/builders"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// objects are Secrets and ConfigMaps in memory.
type objects struct {
	mu      sync.Mutex
	known   map[namedwatch.Ref]namedwatch.Object
	uses    map[types.NamespacedName][]namedwatch.Ref
	version int
	changed func(types.NamespacedName)
}

func newWorld() (*Store, *objects) {
	o := &objects{known: map[namedwatch.Ref]namedwatch.Object{}, uses: map[types.NamespacedName][]namedwatch.Ref{}}
	s := newStore(o)
	o.changed = s.refresh
	return s, o
}

func (o *objects) Use(bottle types.NamespacedName, refs []namedwatch.Ref) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(refs) == 0 {
		delete(o.uses, bottle)
		return
	}
	o.uses[bottle] = refs
}

func (o *objects) Look(ref namedwatch.Ref) namedwatch.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.known[ref]
}

// put changes what is known of an object, and notifies its users.
func (o *objects) put(ref namedwatch.Ref, now namedwatch.Object) {
	o.mu.Lock()
	if now.State == namedwatch.Present {
		o.version++
		now.ResourceVersion = fmt.Sprint(o.version)
	}
	o.known[ref] = now
	var users []types.NamespacedName
	for user, refs := range o.uses {
		if slices.Contains(refs, ref) {
			users = append(users, user)
		}
	}
	o.mu.Unlock()
	for _, u := range users {
		o.changed(u)
	}
}

func (o *objects) putSecret(name string, data map[string]string) {
	bytes := map[string][]byte{}
	for k, v := range data {
		bytes[k] = []byte(v)
	}
	o.put(secret(name), namedwatch.Object{State: namedwatch.Present, Data: bytes})
}

func secret(name string) namedwatch.Ref {
	return namedwatch.Ref{Kind: namedwatch.Secret, Namespace: "default", Name: name}
}

// bottle returns a Bottle on a node that takes the key "token" of each of the Secrets.
func bottle(name, uid, node string, secrets ...string) *bottlev1alpha1.Bottle {
	b := builders.MakeBottle(name).Namespace("default")
	for i, s := range secrets {
		b = b.EnvFromSecret(fmt.Sprintf("T%d", i), s, "token")
	}
	out := b.Obj()
	out.UID, out.Generation = types.UID(uid), 1
	out.Status.NodeName = nil
	if node != "" {
		out.Status.NodeName = ptr.To(node)
	}
	return out
}

func (s *Store) delete(b *bottlev1alpha1.Bottle) {
	s.set(types.NamespacedName{Namespace: b.Namespace, Name: b.Name}, nil)
}

func everything(*v1alpha1.BottleEnvironment) bool { return true }

// view is what a client knows from a watch. It checks that the events make sense.
type view struct {
	mu       sync.Mutex
	known    map[string]*v1alpha1.BottleEnvironment
	last     uint64
	complete bool
	ended    bool
	marks    int
	faults   []string
}

// observe follows a watch until ctx ends. pause runs before each event is read.
func observe(ctx context.Context, t *testing.T, s *Store, node string, pause func()) *view {
	t.Helper()
	w, err := s.watch(ctx, node, true, everything)
	if err != nil {
		t.Fatal(err)
	}
	v := &view{known: map[string]*v1alpha1.BottleEnvironment{}}
	go func() {
		for {
			pause()
			event, ok := <-w.ResultChan()
			if !ok {
				v.mu.Lock()
				v.ended = true
				v.mu.Unlock()
				return
			}
			v.apply(event)
		}
	}()
	return v
}

func (v *view) apply(event watch.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	env := event.Object.(*v1alpha1.BottleEnvironment)
	fault := func(format string, args ...any) {
		v.faults = append(v.faults, fmt.Sprintf("%s of %s: ", event.Type, env.Name)+fmt.Sprintf(format, args...))
	}
	if version := versionOf(env); version < v.last {
		fault("version %d after %d", version, v.last)
	} else {
		v.last = version
	}
	before := v.known[env.Name]
	switch event.Type {
	case watch.Added:
		if before != nil {
			fault("it is known already")
		}
		v.known[env.Name] = env
	case watch.Modified:
		if before == nil || before.BottleUID != env.BottleUID {
			fault("it is not known")
		}
		v.known[env.Name] = env
	case watch.Deleted:
		if before == nil || before.BottleUID != env.BottleUID {
			fault("it is not known")
		}
		if env.Objects != nil {
			fault("it has objects")
		}
		delete(v.known, env.Name)
	case watch.Bookmark:
		v.marks++
		if first := env.Annotations[metav1.InitialEventsAnnotationKey] == "true"; first == v.complete {
			fault("end of the initial events: got %v", first)
		}
		v.complete = true
	}
}

// summary returns what the client knows, in one line per Bottle.
func (v *view) summary() map[string]string {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[string]string{}
	for name, env := range v.known {
		out[name] = summarize(env)
	}
	return out
}

func (v *view) wantNoFaults(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range v.faults {
		t.Error(f)
	}
}

func (v *view) isComplete() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.complete
}

func summarize(env *v1alpha1.BottleEnvironment) string {
	text := fmt.Sprintf("%s/%d", env.BottleUID, env.ObservedGeneration)
	for _, o := range env.Objects {
		text += fmt.Sprintf(" %s=%s", o.Name, o.State)
		for _, key := range slices.Sorted(maps.Keys(o.Data)) {
			text += fmt.Sprintf(",%s:%s", key, o.Data[key])
		}
	}
	return text
}
