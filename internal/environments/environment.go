// SPDX-License-Identifier: Apache-2.0

package environments

import (
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// maxBytes bounds the data of one environment. An agent can read an event of 16 MiB,
// which has the data in base64. A process can be given 2 MiB of variables, and a
// Bottle starts two processes.
const maxBytes = 4 << 20

// subject is what the store needs to know of a Bottle.
type subject struct {
	uid        types.UID
	generation int64
	node       string
	needs      []envsource.Need
}

// subjectOf returns nil if a Bottle has no environment: it is on no node, or it names
// no objects.
func subjectOf(b *bottlev1alpha1.Bottle) *subject {
	s := &subject{uid: b.UID, generation: b.Generation, node: ptr.Deref(b.Status.NodeName, ""), needs: envsource.Needs(b)}
	if s.node == "" || len(s.needs) == 0 {
		return nil
	}
	return s
}

// objects returns what is known of all that the Bottle names. look returns what is
// known of one object.
func (s *subject) objects(look func(namedwatch.Ref) namedwatch.Object) []v1alpha1.EnvironmentObject {
	out := make([]v1alpha1.EnvironmentObject, 0, len(s.needs))
	total := 0
	for _, need := range s.needs {
		known := look(need.Ref)
		o := v1alpha1.EnvironmentObject{Kind: kindName(need.Kind), Name: need.Name, State: stateOf(known.State), ResourceVersion: known.ResourceVersion}
		if known.State == namedwatch.Present {
			o.Data = map[string][]byte{}
			for _, key := range need.Keys {
				if value, ok := known.Data[key]; ok {
					o.Data[key] = value
					total += len(key) + len(value)
				}
			}
			if total > maxBytes {
				o.State, o.Data = v1alpha1.ObjectTooLarge, nil
			}
		}
		out = append(out, o)
	}
	return out
}

func kindName(k namedwatch.Kind) string {
	if k == namedwatch.Secret {
		return "Secret"
	}
	return "ConfigMap"
}

func stateOf(s namedwatch.State) v1alpha1.ObjectState {
	switch s {
	case namedwatch.Present:
		return v1alpha1.ObjectPresent
	case namedwatch.NotFound:
		return v1alpha1.ObjectNotFound
	case namedwatch.Forbidden:
		return v1alpha1.ObjectForbidden
	}
	return v1alpha1.ObjectPending
}

// same says whether two environments say the same. The generation determines the
// keys, and the resourceVersion of an object determines its data.
func same(a, b *v1alpha1.BottleEnvironment) bool {
	if a.BottleUID != b.BottleUID || a.ObservedGeneration != b.ObservedGeneration || len(a.Objects) != len(b.Objects) {
		return false
	}
	for i, x := range a.Objects {
		y := b.Objects[i]
		if x.Kind != y.Kind || x.Name != y.Name || x.State != y.State || x.ResourceVersion != y.ResourceVersion {
			return false
		}
	}
	return true
}
