// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// maxFloodLog bounds what the logs of a machine may take on its node: 32 MiB, and as much
// again before the agent looks at them.
const maxFloodLog = 64 << 20

var (
	lostOutput = regexp.MustCompile(`(?m)^\[dropped (\d+) bytes of output\]$`)
	lostLog    = regexp.MustCompile(`(?m)^\[dropped (\d+|an unknown number of) bytes\]$`)
)

// WantFloodBounded runs a command that prints this many bytes as fast as it can. Its exit
// code must come back, its log must stay small, and all that is missing from its output
// must be reported. It returns how many bytes the machine did not keep: a machine that is
// slower than its log keeps all.
func (c *Cluster) WantFloodBounded(t *testing.T, namespace, name string, size int) (lost int) {
	t.Helper()
	text := strings.Repeat("0123456789", 20)
	wantText := func(what, got string) {
		if strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && (r < '0' || r > '9') }) {
			t.Errorf("%s: got what the command did not print; it begins with %.300q", what, got)
		}
	}
	got := c.Bottle(t, nil, "run", name, "-n", namespace, "--", "sh", "-c", fmt.Sprintf("yes %s | head -c %d; exit 3", text, size))
	if got.Code != 3 {
		t.Fatalf("got exit code %d, want 3\n%s", got.Code, got.Stderr)
	}
	wantText("run", got.Stdout)
	kept := len(got.Stdout)
	for _, match := range lostOutput.FindAllStringSubmatch(got.Stderr, -1) {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			t.Fatal(err)
		}
		lost += n
	}
	// A log that was cut off on the node has lost more than the machine has discarded.
	if cut := lostLog.MatchString(got.Stderr); kept+lost != size && !cut || kept+lost > size {
		t.Errorf("got %d bytes, and %d reported as lost, want %d together\n%s", kept, lost, size, got.Stderr)
	}
	b := c.bottle(t, namespace, name)
	c.WaitReason(t, b, v1alpha1.ConditionFinished, v1alpha1.ReasonFailed)
	if end := EndOf(b); end != "3" {
		t.Errorf("status.workload: got the end %s, want 3", end)
	}
	if lost > 0 {
		c.waitEvent(t, b, v1alpha1.ReasonOutputLost)
	}
	n := c.logBytes(t, b)
	t.Logf("of %d bytes, %d were shown and %d reported as lost; the logs take %d bytes on the node", size, kept, lost, n)
	if n == 0 || n > maxFloodLog || n >= size {
		t.Errorf("the logs take %d bytes on the node, want a bounded number", n)
	}
	if got := c.Bottle(t, nil, "logs", name, "-n", namespace, "--limit-bytes", "100000"); got.Code != 0 || len(got.Stdout) < 10000 {
		t.Errorf("logs of the finished Bottle: got exit code %d and %d bytes\n%s", got.Code, len(got.Stdout), got.Stderr)
	} else {
		wantText("logs", got.Stdout)
	}
	return lost
}

// waitEvent waits until b has an Event with this reason.
func (c *Cluster) waitEvent(t *testing.T, b *v1alpha1.Bottle, reason string) {
	t.Helper()
	c.Eventually(t, "an Event "+reason, func() (string, bool) {
		events := &corev1.EventList{}
		err := c.List(t.Context(), events, client.InNamespace(b.Namespace))
		var reasons []string
		for _, e := range events.Items {
			if e.InvolvedObject.UID == b.UID {
				reasons = append(reasons, e.Reason)
			}
		}
		return fmt.Sprint(reasons, err), slices.Contains(reasons, reason)
	})
}

// logBytes returns what the logs of b's workload take on its node.
func (c *Cluster) logBytes(t *testing.T, b *v1alpha1.Bottle) int {
	t.Helper()
	folder := fmt.Sprintf("/var/lib/bottle/smolvm/.cache/smolvm/vms/%x", sha256.Sum256([]byte(ID(b))))
	folder = folder[:strings.LastIndex(folder, "/")+1+16]
	out := c.Exec(t, NodeOf(b), "sh", "-c", `du -k "$1"/workload.log*`, "sh", folder)
	sum := 0
	for line := range strings.Lines(out) {
		var kib int
		if _, err := fmt.Sscan(line, &kib); err != nil {
			t.Fatalf("du printed %q: %v", line, err)
		}
		sum += kib << 10
	}
	return sum
}

// WantRunOutlivesAgent runs a command, kills the agent of its node meanwhile, lets the
// command end and starts the agent again. All of the output and the exit code must come
// back. A test that calls it must run alone.
func (c *Cluster) WantRunOutlivesAgent(t *testing.T, namespace, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*c.Timeout)
	defer cancel()
	cmd := c.Plugin(ctx, t, "run", name, "-n", namespace, "--",
		"sh", "-c", "echo before; echo early >&2; until [ -e /go ]; do sleep 0.2; done; echo after; touch /over; exit 42")
	var words bytes.Buffer
	cmd.Stderr = &words
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	begin := make([]byte, len("before\n"))
	if _, err := io.ReadFull(stdout, begin); err != nil || string(begin) != "before\n" {
		cancel()
		_ = cmd.Wait()
		t.Fatalf("got %q, %v, want the first line\n%s", begin, err, words.String())
	}
	b := c.bottle(t, namespace, name)
	node := NodeOf(b)
	c.Run(t, "agent-kill", node)
	// Starting an agent that runs does nothing.
	t.Cleanup(func() { c.Run(t, "agent-start", node) })
	c.Guest(t, b, "sh", "-c", "touch /go; until [ -e /over ]; do sleep 0.2; done")
	c.Run(t, "agent-start", node)
	rest, err := io.ReadAll(stdout)
	if err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // the exit code says all
	if code := cmd.ProcessState.ExitCode(); code != 42 || string(rest) != "after\n" || strings.Count("\n"+words.String(), "\nearly\n") != 1 {
		t.Errorf("got exit code %d and %q after %q, want 42, each line once\n%s", code, rest, begin, words.String())
	}
	c.WaitReason(t, b, v1alpha1.ConditionFinished, v1alpha1.ReasonFailed)
	if end := EndOf(b); end != "42" {
		t.Errorf("status.workload: got the end %s, want 42", end)
	}
}

// bottle returns a Bottle that exists.
func (c *Cluster) bottle(t *testing.T, namespace, name string) *v1alpha1.Bottle {
	t.Helper()
	b := &v1alpha1.Bottle{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// EndOf describes how the workload of b ended.
func EndOf(b *v1alpha1.Bottle) string {
	w := b.Status.Workload
	switch {
	case w == nil || w.FinishTime == nil:
		return "not yet"
	case w.Signal != nil:
		return *w.Signal
	case w.ExitCode != nil:
		return fmt.Sprint(*w.ExitCode)
	}
	return "unknown"
}
