// SPDX-License-Identifier: Apache-2.0

package envwatch

import (
	"maps"
	"reflect"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

const (
	// maxEnvironments is the largest --max-bottles.
	maxEnvironments = 10_000
	// maxBytes bounds the data of all environments. The data of one that does not
	// fit is not kept.
	maxBytes = 256 << 20
)

// environment is what the manager said of one Bottle. It is not modified.
type environment struct {
	uid        types.UID
	generation int64
	objects    map[namedwatch.Ref]object
	bytes      int
}

// object is a named Secret or ConfigMap.
type object struct {
	state           v1alpha1.ObjectState
	data            map[string][]byte
	resourceVersion string
	// generation is that of the Bottle that named the keys in data.
	generation int64
}

func environmentOf(e *v1alpha1.BottleEnvironment) *environment {
	out := &environment{uid: e.BottleUID, generation: e.ObservedGeneration, objects: make(map[namedwatch.Ref]object, len(e.Objects))}
	for _, o := range e.Objects {
		ref := namedwatch.Ref{Kind: namedwatch.ConfigMap, Namespace: e.Namespace, Name: o.Name}
		if o.Kind == "Secret" {
			ref.Kind = namedwatch.Secret
		}
		out.objects[ref] = object{state: o.State, data: o.Data, resourceVersion: o.ResourceVersion, generation: e.ObservedGeneration}
	}
	return out
}

// after returns what is known once now was received and before was known. A replica
// of the manager that was started a moment ago may not have read everything yet, and
// may know an older generation of the Bottle.
func (now *environment) after(before *environment) *environment {
	if before == nil || before.uid != now.uid {
		return now.counted()
	}
	if before.generation > now.generation {
		return before
	}
	merged := &environment{uid: now.uid, generation: now.generation, objects: maps.Clone(now.objects)}
	for ref, o := range now.objects {
		if old, ok := before.objects[ref]; ok && o.state == v1alpha1.ObjectPending {
			merged.objects[ref] = old
		}
	}
	return merged.counted()
}

func (now *environment) counted() *environment {
	now.bytes = 0
	for _, o := range now.objects {
		for key, value := range o.data {
			now.bytes += len(key) + len(value)
		}
	}
	return now
}

// withoutData returns an environment whose data was too large to keep.
func (now *environment) withoutData() *environment {
	out := &environment{uid: now.uid, generation: now.generation, objects: make(map[namedwatch.Ref]object, len(now.objects))}
	for ref, o := range now.objects {
		if o.state == v1alpha1.ObjectPresent {
			o.state, o.data = v1alpha1.ObjectTooLarge, nil
		}
		out.objects[ref] = o
	}
	return out
}

// get returns an object that b names.
func (now *environment) get(b *bottlev1alpha1.Bottle, ref namedwatch.Ref) (object, error) {
	if now == nil || now.uid != b.UID {
		return object{}, envsource.ErrNotYet
	}
	o, ok := now.objects[ref]
	if !ok {
		return object{}, envsource.ErrNotYet
	}
	switch o.state {
	case v1alpha1.ObjectNotFound:
		return object{}, envsource.ErrNotFound
	case v1alpha1.ObjectForbidden:
		return object{}, envsource.ErrForbidden
	case v1alpha1.ObjectTooLarge:
		return object{}, envsource.ErrTooLarge
	case v1alpha1.ObjectPresent:
		// Data for an older generation of the Bottle suffices if it has every key that
		// this generation names. A missing key may exist, but was not asked for then.
		if o.generation < b.Generation && !hasAll(o.data, b, ref) {
			return object{}, envsource.ErrNotYet
		}
		return o, nil
	}
	return object{}, envsource.ErrNotYet
}

func hasAll(data map[string][]byte, b *bottlev1alpha1.Bottle, ref namedwatch.Ref) bool {
	for _, need := range envsource.Needs(b) {
		if need.Ref != ref {
			continue
		}
		for _, key := range need.Keys {
			if _, ok := data[key]; !ok {
				return false
			}
		}
	}
	return true
}

func equal(a, b *environment) bool { return reflect.DeepEqual(a, b) }
