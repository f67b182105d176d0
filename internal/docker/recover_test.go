// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
)

// TestBundleRepaired checks that EnsureBundle repairs a container that somebody
// changed, although its spec is the same.
func TestBundleRepaired(t *testing.T) {
	d := dockertest.Start(t)
	d.LoadForeign(t)
	e, c := newEngine(t, d), d.Client(t)
	spec := testSpec
	spec.Image = dockertest.ForeignImage
	for name, do := range map[string]func() error{
		"disconnected while it runs": func() error {
			_, err := c.NetworkDisconnect(t.Context(), spec.Owner.ID(), client.NetworkDisconnectOptions{Container: spec.Owner.ID()})
			return err
		},
		"network replaced while it is stopped": func() error {
			return errors.Join(e.StopBundle(t.Context(), spec.Owner), e.DeleteNetwork(t.Context(), spec.Owner), e.EnsureNetwork(t.Context(), testNetwork))
		},
		"paused": func() error {
			_, err := c.ContainerPause(t.Context(), spec.Owner.ID(), client.ContainerPauseOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
				t.Fatal(err)
			}
			if _, err := e.EnsureBundle(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			if err := do(); err != nil {
				t.Fatal(err)
			}
			b, err := e.EnsureBundle(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			address := inspect(t, c, spec.Owner).NetworkSettings.Networks[spec.Owner.ID()].IPAddress
			if !b.Running || b.IP != spec.IP || address != spec.IP {
				t.Errorf("ensure: got %+v with address %s, want it running at %s", b, address, spec.IP)
			}
		})
	}
}

// TestWatchReconnects checks that the watch reports that everything may have
// changed when docker is back, and then reports events again.
func TestWatchReconnects(t *testing.T) {
	d := dockertest.Start(t)
	e := newEngine(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan string, 1000)
	go func() { _ = e.WatchBundles(ctx, func(uid string) { changes <- uid }) }()
	want := func(what, uid string) {
		t.Helper()
		for limit := time.After(30 * time.Second); ; {
			select {
			case got := <-changes:
				if got == uid {
					return
				}
			case <-limit:
				t.Fatalf("%s: got no call with %q within 30 s", what, uid)
			}
		}
	}
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	want("network made", testOwner.UID)
	d.Kill(t)
	want("docker killed", "")
	d.Restart(t)
	want("docker back", "")
	// The watch must know the owner from before: the event of the removal has the
	// network's ID but no labels.
	if err := e.DeleteNetwork(t.Context(), testOwner); err != nil {
		t.Fatal(err)
	}
	want("network removed", testOwner.UID)
}
