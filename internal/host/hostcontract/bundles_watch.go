// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func bundleWatched(t *testing.T, f BundlesFixture) {
	ctx, cancel := context.WithCancel(t.Context())
	uids, ended := make(chan string, 1000), make(chan error, 1)
	go func() { ended <- f.Bundles.WatchBundles(ctx, func(uid string) { uids <- uid }) }()
	// A foreign thing first: not a word about it.
	f.PutContainer(t, "somebodys", host.Owner{})

	spec := newBundle(t, f, "71")
	bystander := newNetwork(newOwner("bystander"), "72")
	steps := []struct {
		what string
		uid  string
		do   func()
	}{
		{"network of another", bystander.Owner.UID, func() {
			mustDo(t, "ensure network", f.Networks.EnsureNetwork(ctx, bystander))
		}},
		{"made", spec.Owner.UID, func() { wantRunning(t, f, spec) }},
		{"ended", spec.Owner.UID, func() { f.Exit(t, spec.Owner) }},
		{"deleted", spec.Owner.UID, func() { mustDo(t, "delete", f.Bundles.DeleteBundle(ctx, spec.Owner)) }},
		{"network deleted", spec.Owner.UID, func() {
			mustDo(t, "delete network", f.Networks.DeleteNetwork(ctx, spec.Owner))
		}},
		{"network of another deleted", bystander.Owner.UID, func() {
			mustDo(t, "delete network", f.Networks.DeleteNetwork(ctx, bystander.Owner))
		}},
	}
	// Events of what went before may still be under way.
	for _, s := range steps {
		drain(uids)
		s.do()
		wantUID(t, uids, s.what, s.uid)
	}
	f.Down(t)
	wantUID(t, uids, "docker down", "")
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("watch ended: got %v, want context.Canceled", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("watch: got none, want an end within 15 s of the context's")
	}
}
