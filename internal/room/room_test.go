// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/room"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/test/builders"
)

const node = "node-a"

// small and big are Bottles of 2 and of 5 CPUs, with a bundle and a disk.
func small(name string) *v1alpha1.Bottle { return bottle(name, 2) }
func big(name string) *v1alpha1.Bottle   { return bottle(name, 5) }

func bottle(name string, cpus int32) *v1alpha1.Bottle {
	b := builders.MakeBottle(name).Namespace("default").UID(name).On(node).Booked(cpus, "2Gi").Obj()
	b.Status.Resources.Disk = ptr.To(resource.MustParse("10Gi"))
	b.Status.Resources.Bundle = &v1alpha1.BundleResources{CPU: resource.MustParse("250m"), Memory: resource.MustParse("128Mi")}
	return b
}

// withOverhead records what is booked for the VMM.
func withOverhead(b *v1alpha1.Bottle) *v1alpha1.Bottle {
	b.Status.Resources.Overhead = &v1alpha1.OverheadResources{CPU: ptr.To(resource.MustParse("100m"))}
	return b
}

// ended marks a Bottle as one whose placeholder Pod has ended.
func ended(b *v1alpha1.Bottle) *v1alpha1.Bottle {
	b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionScheduled, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonPlaceholderEnded}}
	return b
}

// world is a node, the cluster's API and the agent's state.
type world struct {
	*testing.T
	client.Client
	dir  *state.Dir
	gate *room.Gate
}

func newWorld(t *testing.T, allocatable string, bottles ...*v1alpha1.Bottle) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	w := &world{T: t}
	w.must(clientgoscheme.AddToScheme(scheme))
	w.must(v1alpha1.AddToScheme(scheme))
	n := &corev1.Node{}
	n.Name, n.Status.Allocatable = node, corev1.ResourceList{}
	for pair := range strings.SplitSeq(allocatable, " ") {
		name, amount, _ := strings.Cut(pair, "=")
		n.Status.Allocatable[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(n)
	for _, b := range bottles {
		builder.WithObjects(b)
	}
	w.Client = builder.Build()
	var err error
	w.dir, err = state.Open(t.TempDir())
	w.must(err)
	w.restart()
	return w
}

// restart starts a new agent.
func (w *world) restart() {
	w.gate = room.New(room.Options{Client: w.Client, Node: node, State: w.dir})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// machine creates the record of a Bottle's machine.
func (w *world) machine(uid string) {
	w.Helper()
	folder, err := w.dir.Folder(uid)
	w.must(err)
	w.must(folder.Ensure(host.Owner{UID: uid}))
	w.must(folder.WriteRecord(&state.Record{Salt: "s"}))
}

func (w *world) admit(name string) error {
	w.Helper()
	b := &v1alpha1.Bottle{}
	w.must(w.Get(w.Context(), types.NamespacedName{Namespace: "default", Name: name}, b))
	return w.gate.Admit(w.Context(), b)
}

func (w *world) wantAdmitted(name string) {
	w.Helper()
	if err := w.admit(name); err != nil {
		w.Errorf("%s: got %v, want it admitted", name, err)
	}
}

// wantWaiting checks that a Bottle waits and that the message says what is short.
func (w *world) wantWaiting(name string, words ...string) {
	w.Helper()
	err := w.admit(name)
	var waiting *flow.Waiting
	if !errors.As(err, &waiting) || waiting.Reason != v1alpha1.ReasonNodeFull || waiting.After <= 0 {
		w.Fatalf("%s: got %v, want it to wait because of %s", name, err, v1alpha1.ReasonNodeFull)
	}
	for _, word := range words {
		if !strings.Contains(waiting.Message, word) {
			w.Errorf("%s: got message %q, want it to say %q", name, waiting.Message, word)
		}
	}
}

// A Bottle without a machine waits if its size and those of the machines exceed any of the
// node's resources.
func TestAdmit(t *testing.T) {
	tests := map[string]struct {
		allocatable string
		want        []string // in the message; nil means admitted
	}{
		"room for both":          {"cpu=5 memory=5Gi ephemeral-storage=20Gi botbottle.dev/bottle=2 pods=10", nil},
		"exactly":                {"cpu=4500m memory=4352Mi ephemeral-storage=20Gi botbottle.dev/bottle=2", nil},
		"nothing is known":       {"pods=1", nil},
		"cpu":                    {"cpu=4499m memory=5Gi", []string{"2250m of cpu, but 2250m of 4499m are in use", node}},
		"memory":                 {"cpu=5 memory=4351Mi", []string{"2176Mi of memory, but 2176Mi of 4351Mi"}},
		"disk":                   {"cpu=5 ephemeral-storage=19Gi", []string{"10Gi of ephemeral-storage"}},
		"number":                 {"cpu=5 botbottle.dev/bottle=1", []string{"1 of botbottle.dev/bottle, but 1 of 1"}},
		"several":                {"cpu=3 memory=3Gi", []string{"2176Mi of memory, but", ", and 2250m of cpu"}},
		"the node got smaller":   {"cpu=1", []string{"2250m of cpu, but 2250m of 1"}},
		"the agent takes none":   {"cpu=5 botbottle.dev/bottle=0", []string{"botbottle.dev/bottle"}},
		"without the resource":   {"cpu=5 memory=5Gi", nil},
		"advice about the waits": {"cpu=1", []string{"when there is room", "delete its placeholder Pod"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.allocatable, small("first"), small("second"))
			w.machine("first")
			w.wantAdmitted("first")
			if tc.want == nil {
				w.wantAdmitted("second")
				return
			}
			w.wantWaiting("second", tc.want...)
			w.wantWaiting("second", tc.want...) // and stays so
			w.wantAdmitted("first")
		})
	}
}

// A Bottle that has a machine never waits, whatever order the agent sees Bottles in.
func TestMachinesStay(t *testing.T) {
	w := newWorld(t, "cpu=5", small("a"), big("b"), small("new"))
	w.machine("a")
	w.machine("b")
	w.wantWaiting("new", "7500m of 5")
	w.restart()
	w.wantWaiting("new", "7500m of 5")
	w.wantAdmitted("b")
	w.wantAdmitted("a")
}

// The machine of a Bottle that lost its record counts.
func TestMachineInTheStatus(t *testing.T) {
	lost := big("lost")
	lost.Status.Machine = &v1alpha1.MachineStatus{Name: "bottle-lost"}
	w := newWorld(t, "cpu=6", lost, small("new"))
	w.wantWaiting("new")
	w.wantAdmitted("lost")
}

// The overhead of VMMs counts, as the scheduler counts it.
func TestOverheadCounts(t *testing.T) {
	for allocatable, admitted := range map[string]bool{"cpu=4699m": false, "cpu=4700m": true} {
		w := newWorld(t, allocatable, withOverhead(small("first")), withOverhead(small("second")))
		w.machine("first")
		if err := w.admit("second"); (err == nil) != admitted {
			t.Errorf("%s: got %v, want admitted %v", allocatable, err, admitted)
		}
	}
}

// An unreadable record counts as a machine.
func TestUnreadableRecord(t *testing.T) {
	w := newWorld(t, "cpu=6", big("odd"), small("new"))
	folder, err := w.dir.Folder("odd")
	w.must(err)
	w.machine("odd")
	w.must(os.WriteFile(filepath.Join(folder.Path(), "machine.json"), []byte("{"), 0o600))
	if record, err := folder.Record(); err == nil {
		t.Fatalf("got record %v, want an error", record)
	}
	w.wantWaiting("new")
}

// A Bottle that was admitted counts before it has a machine, and until it has left.
func TestAdmittedCounts(t *testing.T) {
	w := newWorld(t, "cpu=6", big("a"), big("b"), small("c"))
	w.wantAdmitted("a")
	w.wantWaiting("b")
	w.wantWaiting("c")
	a := &v1alpha1.Bottle{}
	w.must(w.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: "a"}, a))
	a.Status.NodeName = ptr.To("node-b")
	w.must(w.Update(t.Context(), a))
	w.wantAdmitted("b")
	w.gate.Forget("b")
	w.wantAdmitted("c")
}

// Of Bottles that arrive at the same time, only those that fit are admitted.
func TestAdmitConcurrently(t *testing.T) {
	var bottles []*v1alpha1.Bottle
	for i := range 8 {
		bottles = append(bottles, small(fmt.Sprint("b", i)))
	}
	w := newWorld(t, "cpu=5", bottles...)
	var wg sync.WaitGroup
	admitted := make(chan string, len(bottles))
	for _, b := range bottles {
		wg.Go(func() {
			if w.gate.Admit(context.Background(), b) == nil {
				admitted <- b.Name
			}
		})
	}
	wg.Wait()
	if len(admitted) != 2 {
		t.Errorf("got %d Bottles admitted, want 2", len(admitted))
	}
}

// A Bottle whose own placeholder has ended gets no machine, and keeps the one that it has.
func TestOwnPlaceholderEnded(t *testing.T) {
	w := newWorld(t, "cpu=100", ended(small("new")), ended(small("old")))
	w.machine("old")
	w.wantWaiting("new", "has ended", "nothing is reserved")
	w.wantAdmitted("old")
}

// A Bottle of a Node that is gone is not held up: the manager evicts it.
func TestNodeGone(t *testing.T) {
	w := newWorld(t, "cpu=1", small("a"))
	n := &corev1.Node{}
	n.Name = node
	w.must(w.Delete(t.Context(), n))
	w.wantAdmitted("a")
}

// What cannot be read admits nothing.
func TestErrors(t *testing.T) {
	failure := errors.New("injected")
	for name, funcs := range map[string]interceptor.Funcs{
		"node": {Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return failure
		}},
		"bottles": {List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return failure }},
	} {
		w := newWorld(t, "cpu=100", small("a"))
		inner, ok := w.Client.(client.WithWatch)
		if !ok {
			t.Fatal("the fake client has no watch")
		}
		gate := room.New(room.Options{Client: interceptor.NewClient(inner, funcs), Node: node, State: w.dir})
		if err := gate.Admit(t.Context(), small("a")); !errors.Is(err, failure) {
			t.Errorf("%s: got %v, want the error", name, err)
		}
	}
}

// The record of a Bottle that has finished stays on the node, but nothing is booked for it.
func TestAFinishedBottleNeedsNoRoom(t *testing.T) {
	done := big("done")
	done.Status.Resources = nil
	done.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue}}
	w := newWorld(t, "cpu=8 memory=64Gi ephemeral-storage=100Gi botbottle.dev/bottle=1", done, big("a"), small("b"))
	w.machine("done")
	w.wantAdmitted("a")
	w.wantWaiting("b", "botbottle.dev/bottle")
}
