// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/inventory"
	"botbottle.dev/bottle-operator/test/builders"
)

// Package bottle tests the sweep together with the Bottle controller.

const (
	cluster = "c1c1c1c1-0000-4000-8000-000000000000"
	grace   = 10 * time.Minute
)

var lost = host.Owner{UID: "1a2b3c4d-0000-4000-8000-000000000000", Namespace: "default", Name: "demo", Slug: "demo", Cluster: cluster, Node: "node-a"}

// requests records the requested teardowns.
type requests struct {
	owners []host.Owner
	still  func(context.Context) (bool, error)
}

func (r *requests) TeardownOrphan(o host.Owner, still func(context.Context) (bool, error)) {
	r.owners, r.still = append(r.owners, o), still
}

type folders []host.Owner

func (f folders) Owners() ([]host.Owner, error) { return f, nil }

type world struct {
	*Sweeper
	api      client.Client
	clock    *testclock.FakeClock
	faults   *hosttest.Faults
	walls    *hosttest.Walls
	requests *requests
	events   *events.FakeRecorder
	registry *prometheus.Registry
}

func newWorld(t *testing.T) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	system := &corev1.Namespace{}
	system.Name, system.UID = clusterNamespace, cluster
	w := &world{clock: testclock.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), faults: &hosttest.Faults{},
		requests: &requests{}, events: events.NewFakeRecorder(10), registry: prometheus.NewPedanticRegistry()}
	w.walls = hosttest.NewWalls(w.faults)
	w.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(system).
		WithIndex(&v1alpha1.Bottle{}, "status.nodeName", func(o client.Object) []string {
			return []string{ptr.Deref(o.(*v1alpha1.Bottle).Status.NodeName, "")}
		}).Build()
	metrics, err := NewMetrics(w.registry)
	if err != nil {
		t.Fatal(err)
	}
	networks := hosttest.NewNetworks(w.faults)
	w.Sweeper = New(Options{
		Node: "node-a", Cluster: cluster, Teardown: w.requests, Live: w.api, Recorder: w.events, Clock: w.clock,
		Inventory: inventory.Sources{Networks: networks, Bundles: hosttest.NewBundles(networks), Walls: w.walls, Folders: folders{}},
		Grace:     grace, Mode: Remove, Metrics: metrics,
	})
	return w
}

// sweep sweeps once, and then lets a grace period pass.
func (w *world) sweep(t *testing.T) {
	t.Helper()
	if err := w.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(grace)
}

func (w *world) place(t *testing.T, o host.Owner) {
	t.Helper()
	b := builders.MakeBottle(o.Slug).UID(o.UID)
	b.Namespace(o.Namespace).Status.NodeName = ptr.To(o.Node)
	if err := w.api.Create(t.Context(), b.Obj()); err != nil {
		t.Fatal(err)
	}
}

func TestRequestsAreReviewedInTheNextSweep(t *testing.T) {
	w := newWorld(t)
	w.Inventory.Folders = folders{lost}
	w.sweep(t) // seen
	w.sweep(t) // requested
	w.sweep(t) // still there: requested again
	w.Inventory.Folders = folders{}
	w.sweep(t) // gone
	if d := cmp.Diff([]host.Owner{lost, lost}, w.requests.owners); d != "" {
		t.Errorf("requests (-want +got):\n%s", d)
	}
	if len(w.events.Events) != 1 {
		t.Errorf("events: got %d, want one of the removal", len(w.events.Events))
	}
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if len(m.Label) == 1 {
				got[m.Label[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if d := cmp.Diff(map[string]float64{"failed": 1, "succeeded": 1}, got); d != "" {
		t.Errorf("removed (-want +got):\n%s", d)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) != 0 {
		t.Errorf("conventions: got %v %v, want no problem", problems, err)
	}
}

func TestReportModeRequestsNothing(t *testing.T) {
	w := newWorld(t)
	w.Mode, w.Inventory.Folders = Report, folders{lost}
	for range 3 {
		w.sweep(t)
	}
	if len(w.requests.owners) != 0 || len(w.seen) != 1 {
		t.Errorf("got %d requests, %d orphans, want 0, 1", len(w.requests.owners), len(w.seen))
	}
}

func TestABottleThatCameBackIsNotAnOrphan(t *testing.T) {
	alone := lost
	alone.Namespace, alone.Name = "", ""
	for name, o := range map[string]host.Owner{"with a folder": lost, "only its wall is left": alone} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if o.Name != "" {
				w.Inventory.Folders = folders{o}
			} else if _, err := w.walls.EnsureWall(t.Context(), host.WallSpec{Owner: o}); err != nil {
				t.Fatal(err)
			}
			w.sweep(t)
			w.sweep(t)
			if d := cmp.Diff([]host.Owner{o}, w.requests.owners); d != "" {
				t.Fatalf("requests (-want +got):\n%s", d)
			}
			if still, err := w.requests.still(t.Context()); err != nil || !still {
				t.Errorf("before: got %v %v, want it still to be an orphan", still, err)
			}
			w.place(t, lost)
			if still, err := w.requests.still(t.Context()); err != nil || still {
				t.Errorf("after: got %v %v, want it not to be an orphan", still, err)
			}
			w.sweep(t)
			if len(w.requests.owners) != 1 || len(w.events.Events) != 0 || len(w.seen) != 0 {
				t.Errorf("got %d requests, %d events, %d orphans, want 1, 0, 0", len(w.requests.owners), len(w.events.Events), len(w.seen))
			}
		})
	}
}
