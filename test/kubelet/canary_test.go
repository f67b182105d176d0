// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

//go:embed testdata/canary.py
var canaryPy string

// canary watches a node while something is broken there: see testdata/canary.py.
type canary struct {
	w    *world
	file string
}

// sightings is what a canary has seen so far.
type sightings struct {
	// Namespaces is the number of Pods' network namespaces in which packets were counted.
	Namespaces int
	// Allowed and Strayed are the packets from the machine to its bundle's port, and to
	// anything else.
	Allowed, Strayed int
	// Machines is the largest number of VMMs of the Bottle at the same time.
	Machines int
}

// startCanary starts a canary for b. It looks for b's present addresses, which b keeps as long
// as it stays on the node. The canary holds no network namespace open.
func (w *world) startCanary(t *testing.T, b *v1alpha1.Bottle) *canary {
	t.Helper()
	c := &canary{w, "/run/canary-" + string(b.UID)[:8]}
	bundle, machine := b.Status.Network.BundleIP, machineIP(b)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(story.ID(b))))[:16]
	w.Exec(t, node, "sh", "-c", `rm -f "$2"; setsid python3 -c "$1" "$2" "$3" "$4" "$5" </dev/null >"$2.log" 2>&1 & echo $! >"$2.pid"`,
		"sh", canaryPy, c.file, machine, bundle, sum)
	t.Cleanup(func() {
		w.TryExec(t, node, "sh", "-c", `kill "$(cat "$1.pid")" && rm -f "$1" "$1.pid" "$1.log"`, "sh", c.file)
	})
	w.Eventually(t, "the canary to see the machine", func() (string, bool) {
		r := w.TryExec(t, node, "sh", "-c", `cat "$1.log" "$1"`, "sh", c.file)
		return r.Stdout, strings.Contains(r.Stdout, `"Machines": 1`)
	})
	return c
}

func (c *canary) read(t *testing.T) (s sightings) {
	t.Helper()
	out := c.w.Exec(t, node, "cat", c.file)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("canary: %v in %q", err, out)
	}
	return s
}

// wantQuiet waits until the machine uses its bundle, and checks that it has reached nothing
// else since the canary started, and that there was never a second machine.
func (c *canary) wantQuiet(t *testing.T, b *v1alpha1.Bottle) {
	t.Helper()
	before := c.read(t).Allowed
	c.w.Eventually(t, "the canary to see the machine use its bundle", func() (string, bool) {
		c.w.TryExec(t, node, "smolvm", "machine", "exec", "--name", story.ID(b), "--", "sh", "-c", dial)
		s := c.read(t)
		return fmt.Sprintf("%+v", s), s.Allowed > before
	})
	s := c.read(t)
	t.Logf("the canary saw %+v", s)
	if s.Strayed != 0 {
		t.Errorf("packets from the machine to others than its bundle's port: got %d, want 0", s.Strayed)
	}
	if s.Machines != 1 {
		t.Errorf("VMMs of the Bottle at the same time: got %d, want 1", s.Machines)
	}
}

// dial is what a guest runs so that a canary could see it escape: it dials what it may
// reach, and more that its wall must stop.
const dial = `for to in "2 8888" "2 4999" "2 22" "1 4999" "77 80"; do
	set -- $to; (nc -w 1 "${BOTTLE_BUNDLE_IP%.*}.$1" "$2" </dev/null >/dev/null 2>&1 &)
done; ping -c 1 -W 1 "$BOTTLE_BUNDLE_IP" >/dev/null 2>&1; true`

// keepDialing makes b's guest dial until it ends.
func (w *world) keepDialing(t *testing.T, b *v1alpha1.Bottle) {
	t.Helper()
	w.StartInGuest(t, b, "dial", "sh -c 'while :; do "+strings.ReplaceAll(dial, "'", "")+"; sleep 0.3; done'")
}
