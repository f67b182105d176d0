// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/sweep"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/inventory"
	"botbottle.dev/bottle-operator/test/builders"
)

const grace = 10 * time.Minute

// abandoned returns a node that runs a Bottle which the API server has lost.
func abandoned(t *testing.T) (*world, *sweep.Sweeper) {
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
	w.useQueue()
	metrics, err := sweep.NewMetrics(w.sweepMetrics)
	if err != nil {
		t.Fatal(err)
	}
	return w, sweep.New(sweep.Options{
		Node: testNode, Cluster: testCluster, Live: w.api.Client, Recorder: w.recorder, Teardown: w.r, Clock: w.clock,
		Inventory: inventory.Sources{Networks: w.networks, Bundles: w.bundles, Walls: w.walls, Folders: w.r.State},
		Grace:     grace, Mode: sweep.Remove, Metrics: metrics,
	})
}

// sweep looks for orphans once and makes the requested passes.
func (w *world) sweep(s *sweep.Sweeper) error {
	w.t.Helper()
	err := s.Sweep(w.t.Context())
	for w.queue.Len() > 0 {
		req, _ := w.queue.Get()
		if _, err := w.r.Reconcile(w.t.Context(), req); err != nil {
			w.t.Error(err)
		}
		w.queue.Done(req)
	}
	return err
}

// swept returns the values of the sweep's metrics.
func (w *world) swept() map[string]float64 {
	w.t.Helper()
	families, err := w.sweepMetrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), "bottle_agent_")
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func TestAnOrphanIsRemovedAfterItsGrace(t *testing.T) {
	w, s := abandoned(t)
	before := w.nodeState()
	for _, after := range []time.Duration{0, grace / 2, grace/2 - time.Second} {
		w.clock.Step(after)
		if err := w.sweep(s); err != nil {
			t.Fatal(err)
		}
		if got := w.nodeState(); len(got) != len(before) {
			t.Fatalf("node within the grace period: got %v, want %v", got, before)
		}
	}
	w.clock.Step(2 * time.Second)
	if err := w.sweep(s); err != nil {
		t.Fatal(err)
	}
	w.wantEmpty()
	if err := w.sweep(s); err != nil {
		t.Fatal(err)
	}
	w.wantEvent(v1alpha1.ReasonOrphanRemoved)
	if d := cmp.Diff(map[string]float64{"orphans": 0, "orphans_removed_total succeeded": 1}, w.swept()); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
}

func TestAnOrphanThatCannotBeRemovedIsTriedAgain(t *testing.T) {
	w, s := abandoned(t)
	w.faults.Fail("DeleteMachine", hosttest.Before, 1, errors.New("stuck"))
	for range 4 { // seen, tried, tried again, gone
		if err := w.sweep(s); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(grace + time.Second)
	}
	w.wantEmpty()
	want := map[string]float64{"orphans": 0, "orphans_removed_total failed": 1, "orphans_removed_total succeeded": 1}
	if d := cmp.Diff(want, w.swept()); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
}

// If only the wall of a Bottle is left, the owner is known only from its mark.
func TestAWallAloneIsAnOrphanToo(t *testing.T) {
	w, s := abandoned(t)
	w.clock.Step(2 * grace)
	for range 2 {
		if err := w.sweep(s); err != nil {
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
		if err := w.sweep(s); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(2 * grace)
	}
	if got := w.walls.IDs(); len(got) != 1 || got[0] != foreign.Owner.ID() {
		t.Errorf("walls: got %v, want only the other cluster's", got)
	}
}

func TestNothingElseIsRemoved(t *testing.T) {
	tests := map[string]func(t *testing.T, w *world, s *sweep.Sweeper){
		"a dry run": func(_ *testing.T, _ *world, s *sweep.Sweeper) { s.Mode = sweep.Report },
		"a Bottle that exists": func(t *testing.T, w *world, _ *sweep.Sweeper) {
			if err := w.api.Create(t.Context(), demo().Obj()); err != nil {
				t.Fatal(err)
			}
		},
		"another cluster behind the kubeconfig": func(_ *testing.T, w *world, s *sweep.Sweeper) {
			s.Live = otherCluster{w.api.Client}
		},
		"a list that fails": func(_ *testing.T, w *world, s *sweep.Sweeper) { s.Live = noList{w.api.Client} },
		"a Bottle that came back after the list": func(t *testing.T, w *world, s *sweep.Sweeper) {
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
				_ = w.sweep(s) // may fail, but must not remove anything
				w.clock.Step(grace)
			}
			if got := w.nodeState(); len(got) != len(before) {
				t.Errorf("node: got %v, want %v", got, before)
			}
		})
	}
}

func TestForeignObjectsAreNeverSwept(t *testing.T) {
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
		if err := w.sweep(s); err != nil {
			t.Fatal(err)
		}
		w.clock.Step(grace)
	}
	if got := w.nodeState(); len(got) != 3*len(foreign)+1 {
		t.Errorf("node: got %v, want all foreign objects and nothing else", got)
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

const newUID = "5e6f7a8b-0000-4000-8000-000000000000"

// heldNetworks block the inspection of one owner's network until release is
// closed.
type heldNetworks struct {
	host.Networks
	uid              string
	entered, release chan struct{}
}

func (n heldNetworks) InspectNetwork(ctx context.Context, o host.Owner) (host.Network, error) {
	if o.UID == n.uid {
		n.entered <- struct{}{}
		<-n.release
	}
	return n.Networks.InspectNetwork(ctx, o)
}

// A new Bottle has the same name as the orphan.
func TestAnOrphanIsNotRemovedDuringAPassOverTheSameName(t *testing.T) {
	w, s := abandoned(t)
	if err := w.api.Create(t.Context(), placed(builders.MakeBottle("demo").UID(newUID)).Obj()); err != nil {
		t.Fatal(err)
	}
	if err := w.sweep(s); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(grace + time.Second)
	held := heldNetworks{w.networks, newUID, make(chan struct{}, 100), make(chan struct{})}
	w.change(func(o *Options) { o.Networks = held })
	passed := make(chan error, 1)
	go func() {
		_, err := w.pass(demoKey)
		passed <- err
	}()
	<-held.entered
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := w.machines.Get(testID); !ok {
		t.Errorf("the orphan's machine during the pass: got none, want it untouched")
	}
	close(held.release)
	if err := <-passed; err != nil {
		t.Fatal(err)
	}
	if err := w.sweep(s); err != nil { // makes the requested pass
		t.Fatal(err)
	}
	if _, _, ok := w.machines.Get(testID); ok {
		t.Errorf("the orphan's machine after the pass: got one, want none")
	}
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
}
