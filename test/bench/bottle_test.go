// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

const node = "node-1"

// steps lists the conditions in the order in which they become True.
var steps = []string{v1alpha1.ConditionScheduled, v1alpha1.ConditionNetworkReady, v1alpha1.ConditionSmolfileReady,
	v1alpha1.ConditionBundleReady, v1alpha1.ConditionMachineReady, v1alpha1.ConditionEgressEnforced, v1alpha1.ConditionReady}

func connect(b *testing.B) *story.Cluster {
	b.Helper()
	return story.Connect(b, 15*time.Minute)
}

func real() bool { return os.Getenv("BENCH_MACHINES") == "real" }

// create creates the bottles without pauses. It returns, for each bottle, how long
// after the first create call each condition was first seen True.
func create(b *testing.B, c *story.Cluster, ns string, bottles ...*v1alpha1.Bottle) map[string]map[string]time.Duration {
	b.Helper()
	seen := map[string]map[string]time.Duration{}
	list := &v1alpha1.BottleList{}
	w, err := c.Watch(b.Context(), list, client.InNamespace(ns))
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	pending := map[string]bool{}
	for _, bottle := range bottles {
		seen[bottle.Name], pending[bottle.Name] = map[string]time.Duration{}, true
	}
	start := time.Now()
	go func() {
		for _, bottle := range bottles {
			if err := c.Create(b.Context(), bottle); err != nil {
				b.Error(err)
			}
		}
	}()
	limit := time.After(c.Timeout)
	for len(pending) > 0 {
		select {
		case <-limit:
			b.Fatalf("%d of %d Bottles did not run within %s", len(pending), len(bottles), c.Timeout)
		case event, ok := <-w.ResultChan():
			if !ok {
				b.Fatal("the watch ended")
			}
			got, ok := event.Object.(*v1alpha1.Bottle)
			if !ok || event.Type == watch.Deleted || seen[got.Name] == nil {
				continue
			}
			for _, condition := range steps {
				if _, known := seen[got.Name][condition]; !known && meta.IsStatusConditionTrue(got.Status.Conditions, condition) {
					seen[got.Name][condition] = time.Since(start)
				}
			}
			if _, ready := seen[got.Name][v1alpha1.ConditionReady]; ready {
				delete(pending, got.Name)
			}
		}
	}
	return seen
}

func bottle(ns, name string) *v1alpha1.Bottle {
	return builders.MakeBottle(name).Namespace(ns).Slug(name).Env("TASK", "bench").Pin(node).Obj()
}

// BenchmarkOne measures the time from create to MachineReady of single Bottles, one
// after another.
func BenchmarkOne(b *testing.B) {
	c := connect(b)
	n, goal := 12, "<= 1.25"
	if real() {
		n, goal = 3, "<= 1.15"
	}
	ns := c.Namespace(b)
	bareWhole, bareParts := measureBare(b, c, guestArchive, n)
	whole, proof := []time.Duration{}, []time.Duration{}
	byStep := map[string][]time.Duration{}
	walls := sumOf(b, c, wallSum)
	for i := range n {
		one := bottle(ns, fmt.Sprintf("one-%d", i))
		seen := create(b, c, ns, one)[one.Name]
		whole = append(whole, seen[v1alpha1.ConditionMachineReady])
		proof = append(proof, seen[v1alpha1.ConditionReady]-seen[v1alpha1.ConditionMachineReady])
		for _, step := range steps {
			byStep[step] = append(byStep[step], seen[step])
		}
		c.DeleteAndWait(b, one)
	}
	report(row{What: "one Bottle: create → MachineReady, ratio of p50 to bare p50", Value: ms(percentile(whole, 50)) / ms(percentile(bareWhole, 50)), Unit: "ratio", Goal: goal,
		Spread: fmt.Sprintf("p95/p95 %.2f", ms(percentile(whole, 95))/ms(percentile(bareWhole, 95)))})
	report(row{What: "one Bottle: create → MachineReady, p50", Value: ms(percentile(whole, 50)), Unit: "ms", Spread: spread(whole)})
	for _, step := range steps {
		report(row{What: "  create → " + step + " seen True, p50", Value: ms(percentile(byStep[step], 50)), Unit: "ms", Spread: spread(byStep[step])})
	}
	// Every pass checks the wall; the first one creates it.
	report(row{What: "one Bottle: time that its passes spent on the wall", Value: 1000 * (sumOf(b, c, wallSum) - walls) / float64(n), Unit: "ms", Goal: "<= 60"})
	goal = "<= 300"
	if real() {
		goal = ""
	}
	report(row{What: "one Bottle: MachineReady → Ready, the proof, p50", Value: ms(percentile(proof, 50)), Unit: "ms", Goal: goal, Spread: spread(proof)})
	reportBare(bareWhole, bareParts)
}

const wallSum = "bottle_agent_wall_raise_duration_seconds_sum"

// sumOf returns the value of a metric without labels of the node's agent.
func sumOf(b *testing.B, c *story.Cluster, name string) float64 {
	b.Helper()
	for line := range strings.Lines(c.Exec(b, node, "busybox", "wget", "-qO-", "http://127.0.0.1:8080/metrics")) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				b.Fatal(err)
			}
			return v
		}
	}
	b.Fatalf("the agent has no metric %s", name)
	return 0
}

func reportBare(whole []time.Duration, parts [][]time.Duration) {
	report(row{What: "bare: all four commands, p50", Value: ms(percentile(whole, 50)), Unit: "ms", Spread: spread(whole)})
	for i, part := range parts {
		report(row{What: "  bare: " + bareParts[i] + ", p50", Value: ms(percentile(part, 50)), Unit: "ms", Spread: spread(part)})
	}
}

// BenchmarkTwenty measures the time per Bottle when twenty are created at the same
// time.
func BenchmarkTwenty(b *testing.B) {
	c := connect(b)
	if real() {
		b.Skip("twenty Bottles need stand-in machines: an emulated node has room for only a few")
	}
	const n = 20
	ns := c.Namespace(b)
	bareWhole, _ := measureBare(b, c, guestArchive, n)
	var bareSum time.Duration
	for _, d := range bareWhole {
		bareSum += d
	}
	var bottles []*v1alpha1.Bottle
	for i := range n {
		bottles = append(bottles, bottle(ns, fmt.Sprintf("twenty-%d", i)))
	}
	seen := create(b, c, ns, bottles...)
	var last time.Duration
	each := []time.Duration{}
	for _, s := range seen {
		each = append(each, s[v1alpha1.ConditionMachineReady])
		last = max(last, s[v1alpha1.ConditionMachineReady])
	}
	report(row{What: "20 Bottles in parallel: time per Bottle, ratio to bare", Value: ms(last) / ms(bareSum), Unit: "ratio", Goal: "< 0.7", Spread: spread(each)})
	report(row{What: "20 Bottles in parallel: until the last runs, per Bottle", Value: ms(last) / n, Unit: "ms"})
	report(row{What: "bare: 20 one after another, per bottle", Value: ms(bareSum) / n, Unit: "ms", Spread: spread(bareWhole)})
}
