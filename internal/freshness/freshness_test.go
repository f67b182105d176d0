// SPDX-License-Identifier: Apache-2.0

package freshness_test

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/freshness"
	"botbottle.dev/bottle-operator/test/builders"
)

func TestStale(t *testing.T) {
	var w freshness.Writes
	at := func(version string) *v1alpha1.Bottle {
		b := builders.MakeBottle("a").Obj()
		b.ResourceVersion = version
		return b
	}
	check := func(step, version string, want bool) {
		t.Helper()
		if got := w.Stale(at(version)); got != want {
			t.Errorf("%s, version %s: got stale %t, want %t", step, version, got, want)
		}
	}
	check("no write", "1", false)
	w.Record(at(""), "10")
	check("after a write", "9", true)
	check("after a write", "10", false)
	check("after the write was seen", "9", false)
	w.Record(at(""), "10")
	check("after somebody else's write", "11", false)
	w.Record(at(""), "20")
	w.Forget(client.ObjectKeyFromObject(at("")))
	check("forgotten", "9", false)
	w.Record(at(""), "20")
	check("a version that is no number", "x", false)
	w.Record(builders.MakeBottle("a").UID("earlier").Obj(), "20")
	check("an earlier Bottle of this name", "9", false)
}

// After a restore of etcd, versions are lower than before.
func TestStaleEnds(t *testing.T) {
	var w freshness.Writes
	b := builders.MakeBottle("a").Obj()
	w.Record(b, "1000")
	b.ResourceVersion = "10"
	for range 1000 {
		if !w.Stale(b) {
			return
		}
	}
	t.Error("got stale for ever, want the API server asked in the end")
}
