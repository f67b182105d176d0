// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/internal/host"
)

const grace = 10 * time.Minute

// abandoned is a node with a running Bottle of which the API server lost all.
func abandoned(t *testing.T) (*world, *Sweeper) {
	t.Helper()
	system := &corev1.Namespace{}
	system.Name, system.UID = "kube-system", testCluster
	w := newWorld(t, system, demo().Env("A", "b").Obj())
	w.settle(demoKey)
	b := w.bottle(demoKey)
	b.Finalizers = nil
	if err := w.api.Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := w.api.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	w.events()
	return w, &Sweeper{Reconciler: w.r, Live: w.api.Client, Grace: grace, Mode: SweepRemove}
}

func TestAnOrphanIsRemovedAfterItsGrace(t *testing.T) {
	w, s := abandoned(t)
	before := w.nodeState()
	for _, after := range []time.Duration{0, grace / 2, grace/2 - time.Second} {
		w.clock.Step(after)
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.nodeState(); len(got) != len(before) {
			t.Fatalf("node within the grace period: got %v, want %v", got, before)
		}
	}
	w.clock.Step(2 * time.Second)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantEmpty()
	w.wantEvent(eventOrphanRemoved)
}

// A wall of which nothing else is left has no names but those in its mark.
func TestAWallAloneIsAnOrphanToo(t *testing.T) {
	w, s := abandoned(t)
	w.clock.Step(2 * grace)
	for range 2 {
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(2 * grace)
	}
	w.wantEmpty()
	spec := host.WallSpec{Owner: ownerOfDemo()}
	foreign := spec
	foreign.Owner.Cluster, foreign.Owner.UID = "another", "77777777-0000-4000-8000-000000000000"
	for _, one := range []host.WallSpec{spec, foreign} {
		if _, err := w.walls.EnsureWall(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(2 * grace)
	}
	if got := w.walls.IDs(); len(got) != 1 || got[0] != foreign.Owner.ID() {
		t.Errorf("walls: got %v, want the other cluster's alone", got)
	}
}

func TestWhatIsNoOrphanStays(t *testing.T) {
	tests := map[string]func(t *testing.T, w *world, s *Sweeper){
		"a dry run": func(_ *testing.T, _ *world, s *Sweeper) { s.Mode = SweepReport },
		"a Bottle that is there": func(t *testing.T, w *world, _ *Sweeper) {
			if err := w.api.Create(t.Context(), demo().Obj()); err != nil {
				t.Fatal(err)
			}
		},
		"another cluster behind the kubeconfig": func(_ *testing.T, w *world, s *Sweeper) {
			s.Live = otherCluster{w.api.Client}
		},
		"a list that fails": func(_ *testing.T, w *world, s *Sweeper) { s.Live = noList{w.api.Client} },
		"a Bottle that came back after the list": func(t *testing.T, w *world, s *Sweeper) {
			if err := w.api.Create(t.Context(), demo().Obj()); err != nil {
				t.Fatal(err)
			}
			s.Live = emptyList{w.api.Client}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			w, s := abandoned(t)
			change(t, w, s)
			before := w.nodeState()
			for range 4 {
				_ = s.Sweep(t.Context()) // some of these fail, none may remove
				w.clock.Step(grace)
			}
			if got := w.nodeState(); len(got) != len(before) {
				t.Errorf("node: got %v, want %v", got, before)
			}
		})
	}
}

func TestForeignThingsAreNeverSwept(t *testing.T) {
	w, s := abandoned(t)
	foreign := []host.Owner{
		{UID: "77777777-a", Slug: "a", Cluster: "another", Node: testNode},
		{UID: "88888888-b", Slug: "b", Cluster: testCluster, Node: "node-b"},
		{},
	}
	for i, o := range foreign {
		name := o.ID() + strings.Repeat("x", i)
		w.networks.PutAs(name, host.Network{Owner: o})
		w.bundles.PutAs(name, host.Bundle{Owner: o})
		w.machines.Add(host.Machine{Name: name, UID: o.UID, State: host.MachineRunning})
	}
	w.machines.Add(host.Machine{Name: "image-seed-0123-7", State: host.MachineRunning})
	for range 3 {
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(grace)
	}
	if got := w.nodeState(); len(got) != 3*len(foreign)+1 {
		t.Errorf("node: got %v, want every foreign thing and nothing else", got)
	}
}

type otherCluster struct{ client.Client }

func (o otherCluster) Get(ctx context.Context, k client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	err := o.Client.Get(ctx, k, obj, opts...)
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.UID = "restored"
	}
	return err
}

type noList struct{ client.Client }

func (noList) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("no list")
}

type emptyList struct{ client.Client }

func (emptyList) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }
