// SPDX-License-Identifier: Apache-2.0

package passes

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/internal/host"
)

var demoKey = types.NamespacedName{Namespace: "default", Name: "demo"}

func TestRegistry(t *testing.T) {
	var r Registry
	if _, ok := r.Key("a"); ok || len(r.All()) != 0 || r.Forget(demoKey) != nil {
		t.Errorf("empty: got something, want nothing")
	}
	// The UIDs have the same first 8 characters; the slugs differ.
	one := host.Owner{UID: "1a2b3c4d-1", Namespace: "default", Name: "one", Slug: "one"}
	two := host.Owner{UID: "1a2b3c4d-2", Namespace: "default", Name: "two", Slug: "two"}
	for _, o := range []host.Owner{one, two, one} {
		r.Remember(o)
	}
	for _, o := range []host.Owner{one, two} {
		want := types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
		if got, ok := r.Key(o.UID); !ok || got != want {
			t.Errorf("key of %s: got %v %v, want %v", o.UID, got, ok, want)
		}
		if got, ok := r.KeyOfMachine(o.ID()); !ok || got != want {
			t.Errorf("key of machine %s: got %v %v, want %v", o.ID(), got, ok, want)
		}
	}
	if got := r.All(); len(got) != 2 {
		t.Errorf("all: got %v, want 2", got)
	}
	// A Bottle that was deleted and created again has the same key and a new UID.
	again := one
	again.UID = "5e6f7a8b-1"
	r.Remember(again)
	got := r.Forget(types.NamespacedName{Namespace: "default", Name: "one"})
	slices.Sort(got)
	if !slices.Equal(got, []string{one.UID, again.UID}) {
		t.Errorf("forgotten: got %v, want both of the key", got)
	}
	if _, ok := r.KeyOfMachine(one.ID()); ok {
		t.Errorf("machine of a forgotten Bottle: got a key, want none")
	}
	if _, ok := r.Key(two.UID); !ok {
		t.Errorf("the other Bottle: got none, want it kept")
	}
}
