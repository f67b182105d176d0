// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// BenchmarkCost measures what Bottles cost while they start and while nothing
// changes: API writes, calls of "smolvm machine ls" and the agent's memory.
func BenchmarkCost(b *testing.B) {
	c := connect(b)
	if real() {
		b.Skip("counted with stand-in machines")
	}
	ns := c.Namespace(b)
	const calls = "/var/lib/bottle/smolvm/.standin"
	c.Exec(b, node, "sh", "-c", "mkdir -p "+calls+" && touch "+calls+"/log-calls")
	b.Cleanup(func() { c.Exec(b, node, "rm", "-f", calls+"/log-calls", calls+"/calls.jsonl") })

	report(row{What: "agent RSS, 0 Bottles", Value: agentRSS(b, c), Unit: "MiB"})
	var bottles []*v1alpha1.Bottle
	for _, upTo := range []int{1, 20, 100} {
		var more []*v1alpha1.Bottle
		for i := len(bottles); i < upTo; i++ {
			more = append(more, bottle(ns, fmt.Sprintf("cost-%d", i)))
		}
		before := auditWrites(b, c)
		create(b, c, ns, more...)
		c.WaitRunning(b, more...)
		settle()
		writes := auditWrites(b, c) - before
		report(row{What: fmt.Sprintf("API writes per Bottle until it runs, %d at the same time", len(more)), Value: float64(writes) / float64(len(more)), Unit: "writes", Goal: "<= 7"})
		bottles = append(bottles, more...)
		report(row{What: fmt.Sprintf("smolvm ls per minute, %d Bottles", upTo), Value: listsPerMinute(b, c, calls), Unit: "calls", Goal: "the same"})
		if upTo > 1 {
			goal := ""
			if upTo == 100 {
				goal = "<= 80"
			}
			report(row{What: fmt.Sprintf("agent RSS, %d Bottles", upTo), Value: agentRSS(b, c), Unit: "MiB", Goal: goal})
		}
	}
	quiet := 10 * time.Minute
	if custom, err := time.ParseDuration(os.Getenv("BENCH_QUIET")); err == nil {
		quiet = custom
	}
	before := auditWrites(b, c)
	time.Sleep(quiet)
	report(row{What: fmt.Sprintf("API writes in %s without changes, 100 Bottles", quiet), Value: float64(auditWrites(b, c) - before), Unit: "writes", Goal: "0"})
}

// settle waits for what follows the last condition: Events and a last write.
func settle() { time.Sleep(5 * time.Second) }

// listsPerMinute counts the ls calls in half a minute and returns twice that.
func listsPerMinute(b *testing.B, c *story.Cluster, calls string) float64 {
	b.Helper()
	count := func() int {
		n := 0
		for line := range strings.Lines(c.Exec(b, node, "cat", calls+"/calls.jsonl")) {
			if strings.Contains(line, `"ls"`) {
				n++
			}
		}
		return n
	}
	before := count()
	time.Sleep(30 * time.Second)
	return float64(count()-before) * 2
}

// auditWrites counts the writes by the manager and the agents so far, including
// Events but not Leases.
func auditWrites(b *testing.B, c *story.Cluster) int { return auditWritesIn(b, c, "") }

// auditWritesIn is auditWrites for the objects of one namespace; "" means all objects.
func auditWritesIn(b *testing.B, c *story.Cluster, namespace string) int {
	b.Helper()
	f, err := os.Open(filepath.Join(c.Dir, "audit.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 0, 64<<10), 4<<20)
	for lines.Scan() {
		var e struct {
			Stage, Verb string
			User        struct{ Username string }
			ObjectRef   struct{ Resource, Namespace string }
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Stage != "ResponseComplete" || e.ObjectRef.Resource == "leases" ||
			namespace != "" && e.ObjectRef.Namespace != namespace ||
			!strings.HasPrefix(e.User.Username, "system:serviceaccount:"+c.SystemNamespace(b)+":bottle-") {
			continue
		}
		switch e.Verb {
		case "create", "update", "patch", "delete", "deletecollection":
			n++
		}
	}
	if err := lines.Err(); err != nil {
		b.Fatal(err)
	}
	return n
}

// agentRSS returns the resident memory of the node's agent in MiB.
func agentRSS(b *testing.B, c *story.Cluster) float64 {
	b.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", agentPID(b, c), "status"))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			return kib / 1024
		}
	}
	b.Fatal("the agent's status has no VmRSS")
	return 0
}

// agentPID is the process ID of the node's agent, which runs on this machine.
func agentPID(b *testing.B, c *story.Cluster) string {
	b.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range cmdlines {
		cmdline, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		argv := strings.Split(string(cmdline), "\x00")
		if strings.HasSuffix(argv[0], "bottle-operator") && strings.Contains(string(cmdline), "\x00agent\x00") && strings.Contains(string(cmdline), c.Dir) {
			return filepath.Base(filepath.Dir(path))
		}
	}
	b.Fatal("found no agent of this cluster")
	return ""
}
