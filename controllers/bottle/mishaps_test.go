// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// mishap is something that happens to a Bottle. n differs each time.
type mishap func(w *world, n int)

var mishaps = map[string]mishap{
	"the bundle's container ends": func(w *world, _ int) { w.bundles.Exit(demoOwner, 1) },
	"the machine ends": func(w *world, _ int) {
		if m, _, ok := w.machines.Get(testID); ok && m.State == host.MachineRunning {
			w.machines.Kill(testID)
		}
	},
	"the agent restarts":                   func(w *world, _ int) { w.restartAgent() },
	"the bundles' runtime does not answer": func(w *world, _ int) { w.networks.Down() },
	"the bundles' runtime answers again":   func(w *world, _ int) { w.networks.Up() },
	"a call fails": func(w *world, n int) {
		calls := slices.Sorted(slices.Values(methods(w.faults.Calls())))
		w.faults.Fail(calls[n%len(calls)], hosttest.When(n%2), 1, errors.New("reply lost")) // before or after its effect
	},
	"the API server loses a reply": func(w *world, _ int) {
		failed := false
		w.api.fail = func(string) error {
			if failed {
				return nil
			}
			failed = true
			return errors.New("the API server's reply was lost after the write")
		}
	},
}

var podMishaps = map[string]mishap{
	"the Pod's sandbox is replaced": func(w *world, n int) {
		if w.hasPod() {
			w.loseNetwork()
			w.startPod(uint64(n), w.bundleDigest())
		}
	},
	"the Pod is gone": func(w *world, _ int) { w.endPod() },
	"another Pod takes its place": func(w *world, n int) {
		w.endPod()
		w.startPodAs(fmt.Sprint("pod", n), uint64(n), w.bundleDigest())
	},
	"the container runtime does not answer": func(w *world, _ int) { w.failRuntime(host.ErrUnavailable) },
	"the container runtime answers again":   func(w *world, _ int) { w.failRuntime(nil) },
}

func (w *world) bundleDigest() string {
	w.t.Helper()
	return desired.BundleDigest(w.bottle(demoKey))
}

func (w *world) hasPod() bool {
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	_, ok := w.pods.pods[testUID]
	return ok
}

// TestMishapsInAnyOrder checks that no machine runs where it must not, whatever happens, and
// that the Bottle runs as before once it is over. A failure names the seed.
func TestMishapsInAnyOrder(t *testing.T) {
	inBothRuntimes(t, func(t *testing.T, kind bundleruntime.Kind) {
		possible := maps.Clone(mishaps)
		if kind == bundleruntime.Pod {
			maps.Copy(possible, podMishaps)
		}
		for seed := range uint64(6) {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				t.Parallel()
				w := newWorldOn(t, kind, demo().Allow("example.com").Obj())
				w.settle(demoKey)
				w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
				rng := rand.New(rand.NewPCG(seed, 0))
				for n := range 15 {
					name := slices.Sorted(maps.Keys(possible))[rng.IntN(len(possible))]
					possible[name](w, 100+n)
					for range rng.IntN(4) {
						_, _ = w.pass(demoKey) // errors are retried
						w.wantSafe(kind, name)
						w.clock.Step(soon)
					}
					w.events()
				}
				w.endMishaps(kind)
				w.wantRecovery(kind)
				w.remove()
				w.wantEmpty()
			})
		}
	})
}

// wantSafe checks that the Bottle has at most one VMM, behind its wall, and none without its
// Pod.
func (w *world) wantSafe(kind bundleruntime.Kind, after string) {
	w.t.Helper()
	var vmms []host.VMM
	if m, _, ok := w.machines.Get(testID); ok && m.State == host.MachineRunning {
		vmms = append(vmms, host.VMM{Name: testID, NetNS: w.netns(w.machines.NetNS(testID))})
	}
	for _, vmm := range vmms {
		_, wall, ok := w.walls.Get(demoOwner)
		if !ok || vmm.NetNS != wall.NetNS || slices.ContainsFunc(wall.Faults, func(f host.WallFault) bool { return f.Open }) {
			w.t.Errorf("after %q: got a machine in %v behind the wall %+v, want it behind a closed one", after, vmm.NetNS, wall)
		}
		if kind == bundleruntime.Pod && !w.hasPod() {
			w.t.Errorf("after %q: got a machine without its Pod", after)
		}
	}
}

// endMishaps makes everything work again.
func (w *world) endMishaps(kind bundleruntime.Kind) {
	w.faults.Heal()
	w.networks.Up()
	w.failRuntime(nil)
	w.api.fail = nil
	if kind == bundleruntime.Pod && !w.hasPod() {
		w.startPodAs("last", 1000, w.bundleDigest())
	}
}

// wantRecovery makes passes until the Bottle is ready, and checks that its bundle has its
// rules.
func (w *world) wantRecovery(kind bundleruntime.Kind) {
	w.t.Helper()
	for range 200 {
		res, err := w.pass(demoKey)
		w.wantSafe(kind, "the last mishap")
		if err == nil && w.cond(demoKey, v1alpha1.ConditionReady) == "True/Ready" && !w.shortly(res.RequeueAfter) {
			break
		}
		w.clock.Step(max(time.Second, min(res.RequeueAfter, 5*time.Minute)))
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if vmms, err := w.machines.VMMs(w.t.Context(), []string{testID}); err != nil || len(vmms) != 1 {
		w.t.Errorf("VMMs: got %v, %v, want one", vmms, err)
	}
	if d := cmp.Diff([]string{"example.com:443"}, w.rulesInForce()); d != "" {
		w.t.Errorf("rules (-want +got):\n%s", d)
	}
	if b, ok := w.bundles.All()[testID]; !ok || !b.Running {
		w.t.Errorf("bundle: got %+v, want it to run", b)
	}
	if got := w.published(); kind == bundleruntime.Pod && canPublish() && !strings.Contains(got["egress.json"], "example.com") {
		w.t.Errorf("what the Pod's bundle reads: got %q, want its rules", got)
	}
}

func (w *world) shortly(d time.Duration) bool { return d > 0 && d <= soon }
