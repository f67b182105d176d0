// SPDX-License-Identifier: Apache-2.0

package nodecleanup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/inventory"
)

const cluster = "c1c1c1c1-0000-4000-8000-000000000000"

var demo = host.Owner{UID: "1a2b3c4d-0000-4000-8000-000000000000", Namespace: "default", Name: "demo", Slug: "demo", Cluster: cluster, Node: "node-a"}

type folders []host.Owner

func (f folders) Owners() ([]host.Owner, error) { return f, nil }

// parts records what is removed, in order, and fails as told.
type parts struct {
	calls []string
	fail  map[string]error
}

func (p *parts) call(what, of string) error {
	p.calls = append(p.calls, what+" "+of)
	return p.fail[what]
}

func (p *parts) KillMachine(_ context.Context, name string) error   { return p.call("kill", name) }
func (p *parts) DeleteMachine(_ context.Context, name string) error { return p.call("machine", name) }
func (p *parts) DeleteWall(_ context.Context, o host.Owner) error   { return p.call("wall", o.ID()) }
func (p *parts) DeleteBundle(_ context.Context, o host.Owner) error { return p.call("bundle", o.ID()) }
func (p *parts) DeleteNetwork(_ context.Context, o host.Owner) error {
	return p.call("network", o.ID())
}
func (p *parts) RemoveExchange(_ context.Context, uid string) error {
	return p.call("exchange", uid[:8])
}
func (p *parts) RemoveFolder(_ context.Context, uid string) error { return p.call("vault", uid[:8]) }

// The wall goes only when the machine is down.
func TestRemovalOfABottle(t *testing.T) {
	const id = "bottle-demo-1a2b3c4d"
	broken := errors.New("broken")
	rest := []string{"wall " + id, "bundle " + id, "network " + id, "exchange 1a2b3c4d", "vault 1a2b3c4d"}
	for name, c := range map[string]struct {
		fail map[string]error
		want []string
		err  error
	}{
		"everything":               {nil, slices.Concat([]string{"machine " + id}, rest), nil},
		"the machine keeps going":  {map[string]error{"machine": broken}, []string{"machine " + id}, broken},
		"the wall stays":           {map[string]error{"wall": broken}, []string{"machine " + id, "wall " + id}, broken},
		"the vault stays":          {map[string]error{"vault": broken}, slices.Concat([]string{"machine " + id}, rest), broken},
		"smolvm was removed first": {map[string]error{"machine": fmt.Errorf("smolvm: %w", host.ErrUnavailable)}, slices.Concat([]string{"machine " + id, "kill " + id}, rest), nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := &parts{fail: c.fail}
			r := Removal{Machines: p, Walls: p, Bundles: p, Networks: p, Exchanges: p, Vault: p}
			if err := r.Remove(t.Context(), demo); !errors.Is(err, c.err) {
				t.Errorf("got %v, want %v", err, c.err)
			}
			if d := cmp.Diff(c.want, p.calls); d != "" {
				t.Errorf("calls (-want +got):\n%s", d)
			}
		})
	}
}

// Removal takes all Bottles of this cluster, also those that were placed when the node had
// another name, and leaves those of other clusters.
func TestRemovalFindsTheBottlesOfOneCluster(t *testing.T) {
	f := &hosttest.Faults{}
	networks := hosttest.NewNetworks(f)
	renamed, foreign, walled := demo, demo, demo
	renamed.UID, renamed.Node = "2a2b3c4d-0000-4000-8000-000000000000", "node-b"
	foreign.UID, foreign.Cluster = "3a2b3c4d-0000-4000-8000-000000000000", "another"
	walled.UID = "4a2b3c4d-0000-4000-8000-000000000000"
	walls := hosttest.NewWalls(f)
	if _, err := walls.EnsureWall(t.Context(), host.WallSpec{Owner: walled}); err != nil {
		t.Fatal(err)
	}
	r := Removal{Cluster: cluster, Inventory: inventory.Sources{Networks: networks, Bundles: hosttest.NewBundles(networks), Walls: walls, Folders: folders{renamed, foreign, demo}}}
	owners, err := r.Owners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range owners {
		got = append(got, o.UID)
	}
	if d := cmp.Diff([]string{demo.UID, renamed.UID, walled.UID}, got); d != "" {
		t.Errorf("owners (-want +got):\n%s", d)
	}
}
