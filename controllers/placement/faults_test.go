// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

var errFault = errors.New("injected: the API server did not answer")

// writes counts the manager's writes by kind. It makes the n-th write of one
// kind fail, before its effect or after it (the reply is lost).
type writes struct {
	mu    sync.Mutex
	count map[string]int
	kind  string
	nth   int
	after bool
	fired bool
}

func (f *writes) intercept(kind string, write func() error) error {
	f.mu.Lock()
	if f.count == nil {
		f.count = map[string]int{}
	}
	f.count[kind]++
	hit := f.kind == kind && f.count[kind] == f.nth
	f.fired = f.fired || hit
	f.mu.Unlock()
	if hit && !f.after {
		return errFault
	}
	err := write()
	if hit {
		return errFault
	}
	return err
}

func (f *writes) seen() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[string]int{}
	for k, v := range f.count {
		seen[k] = v
	}
	return seen
}

func (f *writes) injected() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

func kindOf(o any) string {
	switch o.(type) {
	case *corev1.Pod:
		return "Pod"
	case *corev1.Node:
		return "Node"
	default:
		return "Bottle"
	}
}

func (f *writes) funcs() interceptor.Funcs {
	return interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return f.intercept("create "+kindOf(o), func() error { return c.Create(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return f.intercept("delete "+kindOf(o), func() error { return c.Delete(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return f.intercept("patch "+kindOf(o), func() error { return c.Patch(ctx, o, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return f.intercept("patch "+kindOf(o)+" "+sub, func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
		SubResourceApply: func(ctx context.Context, c client.Client, sub string, o runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
			return f.intercept("apply Bottle "+sub, func() error { return c.SubResource(sub).Apply(ctx, o, opts...) })
		},
	}
}

// story is the life of a Bottle that is drained and then loses its second node,
// and of a second Bottle that is deleted on the lost node. It includes every kind
// of write that the manager makes.
func story(w *world) {
	w.Helper()
	first, _ := w.node("a")
	second, stopAgent := w.node("b")
	w.placed(builders.MakeBottle("a").Obj(), first)
	w.takeOver("a")
	w.placed(builders.MakeBottle("b").Obj(), second)
	w.takeOver("b")
	w.must(w.c.Delete(w.Context(), w.pod("a")))
	w.waitScheduled("a", "False Evicted")
	w.leave("a")
	w.waitScheduled("a", "False Pending")
	w.bind(w.pod("a"), second)
	w.waitScheduled("a", "True Scheduled")
	w.takeOver("a")
	stopAgent()
	w.wait("a", v1alpha1.ConditionReady, "Unknown AgentLost")
	w.eventually(func() string { return w.room(second, "none") })
	w.must(w.c.Delete(w.Context(), w.bottle("b")))
	w.must(w.c.Delete(w.Context(), w.readNode(second)))
	w.gone("b")
	w.waitScheduled("a", "False Pending")
	w.desire("a", v1alpha1.DesiredStateStopped)
	w.waitScheduled("a", "False Stopped")
	w.must(w.c.Delete(w.Context(), w.bottle("a")))
	w.gone("a")
}

// Each write fails once, before or after its effect. The story still ends the
// same way.
func TestEveryWriteFailsOnce(t *testing.T) {
	kinds := []string{"create Pod", "delete Pod", "patch Pod", "patch Bottle", "patch Bottle status", "patch Node status", "apply Bottle status"}
	t.Run("none", func(t *testing.T) {
		w, f := newWorld(t), &writes{}
		w.start(f.funcs())
		story(w)
		var seen []string
		for kind := range f.seen() {
			seen = append(seen, kind)
		}
		slices.Sort(seen)
		slices.Sort(kinds)
		if !slices.Equal(seen, kinds) {
			t.Errorf("got writes %v in the story, want %v", seen, kinds)
		}
	})
	for _, kind := range kinds {
		nths := []int{1}
		if kind == "apply Bottle status" || kind == "create Pod" || kind == "patch Pod" {
			nths = []int{1, 2, 3}
		}
		for _, nth := range nths {
			for name, after := range map[string]bool{"before": false, "after": true} {
				t.Run(fmt.Sprintf("%s/%d/%s", kind, nth, name), func(t *testing.T) {
					w, f := newWorld(t), &writes{kind: kind, nth: nth, after: after}
					w.start(f.funcs())
					story(w)
					if !f.injected() {
						t.Errorf("got no fault injected, want one: %v", f.seen())
					}
				})
			}
		}
	}
}
