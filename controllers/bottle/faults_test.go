// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// faulty returns a world with the Bottle of the fault tests, which uses every
// port.
func faulty(t *testing.T, kind bundleruntime.Kind) *world {
	t.Helper()
	w := newWorldOn(t, kind, demo().Env("A", "b").EnvFromSecret("TOKEN", "creds", "token").Allow("example.com").Command("run").Obj())
	w.refs.put("secrets", "creds", "token", "hush")
	return w
}

// methods returns the distinct host calls in a log.
func methods(calls []string) []string {
	var out []string
	for _, c := range calls {
		method, _, _ := strings.Cut(c, " ")
		if !slices.Contains(out, method) {
			out = append(out, method)
		}
	}
	return out
}

// failureModes returns the ways in which a call can fail.
func failureModes(call string) map[string]hosttest.When {
	ways := map[string]hosttest.When{"before": hosttest.Before, "after": hosttest.After}
	if hosttest.CanFailHalfWay(call) {
		ways["half way"] = hosttest.Half
	}
	return ways
}

func TestEveryHostCallMayFailOnceWhileConverging(t *testing.T) {
	inBothRuntimes(t, testEveryHostCallMayFailOnceWhileConverging)
}

func testEveryHostCallMayFailOnceWhileConverging(t *testing.T, kind bundleruntime.Kind) {
	good := faulty(t, kind)
	good.settle(demoKey)
	calls := methods(good.faults.Calls())
	if len(calls) < 8 {
		t.Fatalf("calls: got %v, want the calls of all steps", calls)
	}
	for _, call := range calls {
		for word, when := range failureModes(call) {
			t.Run(call+" "+word, func(t *testing.T) {
				t.Parallel()
				w := faulty(t, kind)
				w.faults.Fail(call, when, 1, errors.New("reply lost"))
				w.settle(demoKey)
				w.settle(demoKey)
				w.wantSame(good)
			})
		}
	}
}

// wantSame checks that the node and the conditions equal those of another world.
func (w *world) wantSame(good *world) {
	w.t.Helper()
	if d := cmp.Diff(good.nodeState(), w.nodeState()); d != "" {
		w.t.Errorf("node (-want +got):\n%s", d)
	}
	if d := cmp.Diff(good.published(), w.published()); d != "" {
		w.t.Errorf("what the Pod's bundle reads (-want +got):\n%s", d)
	}
	for _, typ := range agentstatus.Types {
		if got, want := w.cond(demoKey, typ), good.cond(demoKey, typ); got != want {
			w.t.Errorf("%s: got %q, want %q", typ, got, want)
		}
	}
}

func TestEveryHostCallMayFailOnceWhileLeaving(t *testing.T) {
	inBothRuntimes(t, testEveryHostCallMayFailOnceWhileLeaving)
}

func testEveryHostCallMayFailOnceWhileLeaving(t *testing.T, kind bundleruntime.Kind) {
	good := faulty(t, kind)
	good.settle(demoKey)
	good.faults.ResetCalls()
	good.remove()
	calls := methods(good.faults.Calls())
	if len(calls) < 4 {
		t.Fatalf("calls: got %v, want the calls of all steps", calls)
	}
	for _, call := range calls {
		for word, when := range failureModes(call) {
			t.Run(call+" "+word, func(t *testing.T) {
				t.Parallel()
				w := faulty(t, kind)
				w.settle(demoKey)
				w.faults.Fail(call, when, 1, errors.New("reply lost"))
				w.remove()
				w.wantEmpty()
			})
		}
	}
}

// remove deletes the Bottle and makes passes until it is gone. Its Pod goes with it.
func (w *world) remove() {
	w.t.Helper()
	b := w.bottle(demoKey)
	if err := w.api.Delete(w.t.Context(), b); err != nil {
		w.t.Fatal(err)
	}
	for range 20 {
		_, _ = w.pass(demoKey) // errors are retried
		w.clock.Step(soon)
		if err := w.api.Get(w.t.Context(), demoKey, &v1alpha1.Bottle{}); err != nil {
			w.endPod()
			return
		}
	}
	w.t.Fatalf("the Bottle still exists: %s", w.describe(demoKey))
}

func TestEveryAPIWriteMayFailOnce(t *testing.T) { inBothRuntimes(t, testEveryAPIWriteMayFailOnce) }

func testEveryAPIWriteMayFailOnce(t *testing.T, kind bundleruntime.Kind) {
	good := faulty(t, kind)
	good.settle(demoKey)
	converging := len(good.api.log())
	good.remove()
	all := len(good.api.log())
	want := map[bundleruntime.Kind]int{bundleruntime.Docker: 4, bundleruntime.Pod: 3}[kind] // the first report waits for the Pod
	if converging != want || all != want+1 {
		t.Fatalf("API writes: got %d, then %d, want %d and one more", converging, all, want)
	}
	for n := range all {
		for _, word := range []string{"before", "after"} {
			t.Run(fmt.Sprint(n, " ", word), func(t *testing.T) {
				t.Parallel()
				w := faulty(t, kind)
				count := 0
				w.api.fail = func(string) error {
					count++
					if count == n+1 {
						return errors.New("the API server's reply was lost " + word + " the write")
					}
					return nil
				}
				w.settle(demoKey)
				w.settle(demoKey)
				w.wantSame(converged(t, kind))
				w.remove()
				w.wantEmpty()
			})
		}
	}
}

func converged(t *testing.T, kind bundleruntime.Kind) *world {
	t.Helper()
	w := faulty(t, kind)
	w.settle(demoKey)
	return w
}

// The deletion of a machine that is being replaced may be interrupted. The new
// machine must not reuse the data of the old one.
func TestAnInterruptedReplacementLeavesNoData(t *testing.T) {
	w := faulty(t, bundleruntime.Docker)
	w.settle(demoKey)
	w.faults.Fail("DeleteMachine", hosttest.Half, 1, errors.New("reply lost"))
	w.annotate(v1alpha1.AnnotationRecreatedAt, "now")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	if got := w.machines.Leftovers(); len(got) > 0 {
		t.Errorf("data of deleted machines: got %v, want none", got)
	}
}
