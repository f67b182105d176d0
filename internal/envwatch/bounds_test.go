// SPDX-License-Identifier: Apache-2.0

package envwatch

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottlev1alpha1 "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// What does not fit is not kept, and is said to be too large, until there is room.
func TestTheDataOfAllBottlesIsBounded(t *testing.T) {
	s := New(Options{Changed: func(types.NamespacedName) {}})
	s.limit = 100
	ref := namedwatch.Ref{Kind: namedwatch.Secret, Namespace: "ns", Name: "s"}
	put := func(name string, size int) {
		e := &v1alpha1.BottleEnvironment{BottleUID: types.UID(name), ObservedGeneration: 1, Objects: []v1alpha1.EnvironmentObject{
			{Kind: "Secret", Name: "s", State: v1alpha1.ObjectPresent, Data: map[string][]byte{"k": []byte(strings.Repeat("x", size))}}}}
		e.Namespace, e.Name = "ns", name
		s.put(types.NamespacedName{Namespace: "ns", Name: name}, environmentOf(e))
	}
	want := func(name string, kind error, bytes int) {
		t.Helper()
		b := &bottlev1alpha1.Bottle{}
		b.Namespace, b.Name, b.UID, b.Generation = "ns", name, types.UID(name), 1
		if _, err := s.Get(t.Context(), b, ref); !errors.Is(err, kind) {
			t.Errorf("%s: got %v, want %v", name, err, kind)
		}
		if s.bytes != bytes {
			t.Errorf("data: got %d bytes, want %d", s.bytes, bytes)
		}
	}
	put("a", 59)
	want("a", nil, 60)
	put("b", 59)
	want("b", envsource.ErrTooLarge, 60)
	want("a", nil, 60)
	s.remove(types.NamespacedName{Namespace: "ns", Name: "a"}, "a")
	put("b", 59)
	want("b", nil, 60)
	put("b", 9)
	want("b", nil, 10)
}
