// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// TestWhatABottleTakes checks that a Bottle's bundle, even a foreign one, has the limits
// that are booked, that the Bottle's disk is booked and stays so while the Bottle is
// stopped, and that the user of its VMM sees nothing of other Bottles.
func TestWhatABottleTakes(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	own, foreign := bottleOn(node1, ns, "bounds", "bounds"), bottleOn(node1, ns, "bounds-foreign", "bounds-foreign")
	foreign.Spec.Bundle = &v1alpha1.Bundle{Image: ptr("example.test/foreign-bundle:1")}
	c.Apply(t, own, foreign)
	c.WaitRunning(t, own, foreign)
	for _, b := range []*v1alpha1.Bottle{own, foreign} {
		r := b.Status.Resources
		if r == nil || r.Bundle == nil || r.Disk == nil {
			t.Fatalf("%s: got resources %+v, want a bundle's and a disk's", b.Name, r)
		}
		got := c.Exec(t, node1, "docker", "inspect", "--format", "{{.HostConfig.CpuPeriod}} {{.HostConfig.CpuQuota}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", story.ID(b))
		if want := fmt.Sprint(400_000, r.Bundle.CPU.MilliValue()*400, r.Bundle.Memory.Value(), 512); strings.TrimSpace(got) != want {
			t.Errorf("%s: limits of its bundle: got %q, want %q", b.Name, got, want)
		}
		wantBooked(t, c, b)
	}

	const script = `
import os
dirs = [d for d, _, _ in os.walk("/var/lib/bottle")]
os.setgroups([]); os.setgid(2000001); os.setuid(2000001)
for d in dirs:
    try: os.listdir(d)
    except PermissionError: continue
    # Certificates and orders are public, nobody can guess the names of the folders for reports, and the
    # stand-in unpacks images, which smolvm does not.
    if not d.startswith(("/var/lib/bottle/ca/", "/var/lib/bottle/in/", "/var/lib/bottle/out/")) and "/smolvm-standin-rootfs/" not in d: print(d)`
	c.Eventually(t, "that no folder is open to the users of VMMs", func() (string, bool) {
		got := strings.TrimSpace(c.Exec(t, node1, "python3", "-c", script))
		return got, got == ""
	})

	c.Change(t, own, func() { own.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	c.WaitReason(t, own, v1alpha1.ConditionReady, v1alpha1.ReasonStopped)
	wantBooked(t, c, own)
}

// wantBooked checks the requests of a Bottle's placeholder.
func wantBooked(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) {
	t.Helper()
	pod := &corev1.Pod{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: b.Namespace, Name: story.ID(b)}, pod); err != nil {
		t.Fatal(err)
	}
	booked, r := pod.Spec.Containers[0].Resources.Requests, b.Status.Resources
	if got := booked[corev1.ResourceEphemeralStorage]; got.Cmp(*r.Disk) != 0 || r.Disk.Cmp(resource.MustParse("1Gi")) != 0 {
		t.Errorf("%s: got %s of ephemeral-storage booked and %s recorded, want the default of 1Gi", b.Name, got.String(), r.Disk)
	}
	least := *resource.NewQuantity(int64(r.CPUs), resource.DecimalSI)
	least.Add(r.Bundle.CPU)
	if got := booked[corev1.ResourceCPU]; got.Cmp(least) < 0 {
		t.Errorf("%s: got %s of CPU booked, want at least %s", b.Name, got.String(), least.String())
	}
}

// TestAFloodOfRefusalsIsCounted checks that a bundle logs little when its guest floods it
// with requests, and that all its refusals are counted.
func TestAFloodOfRefusalsIsCounted(t *testing.T) {
	t.Parallel()
	const requests, perConnection = 30_000, 1000
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "flood", "flood")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	before := refusals(t, c)
	start := time.Now()
	// nc does not read while it writes. The requests of one connection must therefore fit
	// into the buffers on the way, or nc and the bundle wait for each other.
	c.Guest(t, b, "sh", "-c", fmt.Sprintf(
		`request=$(printf 'CONNECT evil.test:443 HTTP/1.1\r\nHost: x\r\n\r'); for i in $(seq %d); do yes "$request" | head -n %d | nc -w 5 %s 8888; done | grep -c '^HTTP/1.1 403'`,
		requests/perConnection, 3*perConnection, b.Status.Network.BundleIP))
	seconds := time.Since(start).Seconds()
	c.Eventually(t, "all refusals to be counted", func() (string, bool) {
		n := refusals(t, c) - before
		return fmt.Sprintf("%.0f of %d", n, requests), n >= requests
	})
	log := c.Exec(t, node1, "docker", "logs", story.ID(b))
	lines := strings.Count(log, "\n")
	t.Logf("%d requests in %.1f s: %d lines, %d bytes of log", requests, seconds, lines, len(log))
	if most := 150 + int(25*(seconds+5)); lines > most {
		t.Errorf("log: got %d lines for %d requests, want at most %d", lines, requests, most)
	}
}

// refusals returns the agent's count of denied requests on node1.
func refusals(t *testing.T, c *story.Cluster) float64 {
	t.Helper()
	for line := range strings.Lines(c.Exec(t, node1, "busybox", "wget", "-qO-", "http://127.0.0.1:8080/metrics")) {
		if value, ok := strings.CutPrefix(line, `bottle_agent_egress_decisions_total{verdict="deny"} `); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}
