// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// many is close to the 254 subnets that a node has.
const many = 240

// BenchmarkMany applies many Bottles at once, measures what the agent costs
// while they run and nothing happens, and restarts the agent.
func BenchmarkMany(b *testing.B) {
	c := connect(b)
	if real() {
		b.Skip("an emulated node has room for a few Bottles only")
	}
	ns := c.Namespace(b)
	memory := resource.MustParse("1Gi")
	var bottles []*v1alpha1.Bottle
	for i := range many {
		one := bottle(ns, fmt.Sprintf("many-%d", i))
		one.Spec.Machine = &v1alpha1.Machine{Memory: &memory} // the node has room for all
		bottles = append(bottles, one)
	}
	seen := create(b, c, ns, bottles...)
	var ready []time.Duration
	for _, s := range seen {
		ready = append(ready, s[v1alpha1.ConditionReady])
	}
	all := slices.Max(ready)
	report(row{What: "240 Bottles at once: until the first is Ready", Value: slices.Min(ready).Seconds(), Unit: "s", Goal: "<= 3"})
	report(row{What: "240 Bottles at once: until half of them are Ready", Value: percentile(ready, 50).Seconds(), Unit: "s"})
	report(row{What: "240 Bottles at once: until all are Ready", Value: all.Seconds(), Unit: "s"})
	report(row{What: "240 Bottles at once: half beside all", Value: percentile(ready, 50).Seconds() / all.Seconds(), Unit: "ratio", Goal: "about 0.5"})

	settle()
	const quiet = time.Minute
	pid := agentPID(b, c)
	before, writes := cpuSeconds(b, pid), auditWrites(b, c)
	time.Sleep(quiet)
	report(row{What: "240 Bottles in a minute of quiet: agent's processor time", Value: 100 * (cpuSeconds(b, pid) - before) / quiet.Seconds(), Unit: "% of a core", Goal: "<= 2"})
	report(row{What: "240 Bottles in a minute of quiet: API writes", Value: float64(auditWrites(b, c) - writes), Unit: "writes", Goal: "0"})
	report(row{What: "agent RSS, 240 Bottles", Value: agentRSS(b, c), Unit: "MiB", Goal: "<= 60"})

	c.Run(b, "agent-stop", node)
	restarted := time.Now()
	c.Run(b, "agent-start", node)
	c.Eventually(b, "the restarted agent to have proven all Bottles", func() (string, bool) {
		proofs := proofsOf(b, c)
		return fmt.Sprint(proofs), proofs >= many
	})
	report(row{What: "240 Bottles: from the agent's start until all are proven again", Value: time.Since(restarted).Seconds(), Unit: "s", Goal: "<= 10"})
}

// proofsOf is the number of proofs that the node's agent has made since it
// started; 0 while it does not serve metrics yet.
func proofsOf(b *testing.B, c *story.Cluster) int {
	b.Helper()
	r := c.TryExec(b, node, "busybox", "wget", "-qO-", "http://127.0.0.1:8080/metrics")
	for line := range strings.Lines(r.Stdout) {
		if rest, ok := strings.CutPrefix(line, `bottle_agent_proofs_total{result="proven"} `); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				b.Fatal(err)
			}
			return int(n)
		}
	}
	return 0
}

// cpuSeconds is the processor time of a process and of the children that it
// has waited for, such as its smolvm commands.
func cpuSeconds(b *testing.B, pid string) float64 {
	b.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	ticks := 0.0
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	const ticksPerSecond = 100
	return ticks / ticksPerSecond
}
