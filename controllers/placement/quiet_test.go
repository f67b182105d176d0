// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/builders"
)

// TestWrites counts the manager's writes until a Bottle runs. After that, neither
// further passes nor a restart of the manager write anything.
func TestWrites(t *testing.T) {
	w, f := newWorld(t), &writes{}
	w.options.FirstReport = time.Minute // whatever the test's scheduler takes
	w.start(f.funcs())
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	want := map[string]int{"create Pod": 1, "apply Bottle status": 1}
	if diff := cmp.Diff(want, f.seen()); diff != "" {
		t.Errorf("writes until the hand-over (-want +got):\n%s", diff)
	}
	for i := range 5 { // each change triggers a pass
		b := w.bottle("a")
		before := b.DeepCopy()
		b.Annotations = map[string]string{"changed": fmt.Sprint(i)}
		w.must(w.c.Patch(t.Context(), b, client.MergeFrom(before)))
		w.report("a", fmt.Sprintf("Reason%d", i))
	}
	w.always(func() string { return cmp.Diff(want, f.seen()) })

	w.stop()
	version := w.bottle("a").ResourceVersion
	again := &writes{}
	w.start(again.funcs())
	w.must(w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "a"}, builders.MakeBottle("a").Obj()))
	w.always(func() string {
		if got := w.bottle("a").ResourceVersion; got != version {
			return "got version " + got + " after a restart of the manager, want " + version
		}
		return cmp.Diff(map[string]int{}, again.seen())
	})
}

func TestMetrics(t *testing.T) {
	w, f := newWorld(t), &writes{}
	w.start(f.funcs())
	node, stopAgent := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.create(builders.MakeBottle("b").Obj())
	w.waitScheduled("b", "False Pending")
	w.waitMetric(`bottle_operator_bottles{ready="False",reason="Progressing"}`, 1)
	w.waitMetric(`bottle_operator_bottles{ready="False",reason="Pending"}`, 1)
	w.waitMetric("bottle_operator_placement_duration_seconds", 1)
	w.waitMetric("bottle_operator_agents_lost", 0)
	stopAgent()
	w.waitMetric("bottle_operator_agents_lost", 1)
}

// waitMetric waits for a gauge's value, or a histogram's count.
func (w *world) waitMetric(name string, want float64) {
	w.Helper()
	w.eventually(func() string {
		families, err := w.registry.Gather()
		w.must(err)
		values := map[string]float64{}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				key := family.GetName()
				if l := m.GetLabel(); len(l) == 2 {
					key += fmt.Sprintf("{%s=%q,%s=%q}", l[0].GetName(), l[0].GetValue(), l[1].GetName(), l[1].GetValue())
				}
				values[key] = m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		if got, found := values[name]; found && got == want {
			return ""
		}
		return fmt.Sprintf("got metrics %v, want %s %v", values, name, want)
	})
}
