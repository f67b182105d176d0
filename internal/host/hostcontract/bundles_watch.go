// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func bundleWatch(t *testing.T, f BundlesFixture) {
	ctx, cancel := context.WithCancel(t.Context())
	uids, ended := make(chan string, 1000), make(chan error, 1)
	go func() { ended <- f.Bundles.WatchBundles(ctx, func(uid string) { uids <- uid }) }()
	// A foreign container first: the watch must not report it.
	if f.Run == nil {
		f.PutContainer(t, "somebodys", host.Owner{})
	}

	spec := newBundle(t, f, "71")
	bystander := newNetwork(newOwner("bystander"), "72")
	steps := []struct {
		what string
		uid  string
		do   func()
	}{
		{"another Bottle's network made", bystander.Owner.UID, func() {
			mustDo(t, "ensure network", f.Networks.EnsureNetwork(ctx, bystander))
		}},
		{"made", spec.Owner.UID, func() { wantRunning(t, f, spec) }},
		{"ended", spec.Owner.UID, func() { f.Exit(t, spec.Owner) }},
		{"deleted", spec.Owner.UID, func() {
			if f.Run != nil { // the kubelet has started it again
				wantRunning(t, f, spec)
				drain(uids)
			}
			mustDo(t, "delete", f.Bundles.DeleteBundle(ctx, spec.Owner))
		}},
		{"network deleted", spec.Owner.UID, func() {
			mustDo(t, "delete network", f.Networks.DeleteNetwork(ctx, spec.Owner))
		}},
		{"another Bottle's network deleted", bystander.Owner.UID, func() {
			mustDo(t, "delete network", f.Networks.DeleteNetwork(ctx, bystander.Owner))
		}},
	}
	// Events of the previous step may still arrive.
	for _, s := range steps {
		if f.Place != nil && strings.Contains(s.what, "network") {
			continue // the watch of the walls reports it
		}
		drain(uids)
		s.do()
		wantUID(t, uids, s.what, s.uid)
	}
	f.Down(t)
	if f.Up != nil {
		f.Up(t)
	}
	wantUID(t, uids, "docker down", "")
	cancel()
	wantEnded(t, ended)
}

// wantEnded waits until a watch whose context was cancelled has returned.
func wantEnded(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("watch ended: got %v, want context.Canceled", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("watch: did not end within 15 s after its context")
	}
}
