// SPDX-License-Identifier: Apache-2.0

// Package escape attacks a running development cluster from inside its
// Bottles. Each attack is first shown to succeed with what stops it taken
// away, so that its failing means something, and then to fail. Whether it
// succeeded is judged by what the pretend outside world, listeners on the node
// and captures of packets saw, and only besides by what the attacker was told.
//
// Three things stop attacks, and each case names its own:
//   - a bundle rule: taken away by allowing, in spec.egress.allow, what the
//     attack wants (rules_test.go);
//   - the wall: an attack succeeds from a machine that runs on the node's own
//     network, without policy (wall_test.go), and from a namespace on the same
//     bridge that has no filter (raw_test.go);
//   - smolvm's policy: an attack succeeds from a machine without one, and fails
//     from one with it, both without the wall (wall_test.go, real microVMs
//     only: a stand-in enforces nothing).
//
// Beside them, a machine is identified by its cgroup: neither a process that
// looks like its VMM nor a VMM that looks like another process changes what
// happens to it (process_test.go).
//
// DEV_DIR names the cluster; either kind of node will do.
package escape

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

const node = "node-1"

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard()) // the client's; tests say what went wrong
	os.Exit(m.Run())
}

// site is where the attacks take place.
type site struct {
	*story.Cluster
	// real: machines are microVMs, not stand-ins.
	real bool
	// version is smolvm's.
	version string
	// ruled is a Bottle with the default bundle, walled one whose bundle
	// listens on more ports than it declares.
	ruled, walled *v1alpha1.Bottle
	// patience is how long one attack waits for an answer.
	patience time.Duration
}

func TestEscape(t *testing.T) {
	s := newSite(t)
	t.Run("a machine of an artifact", func(t *testing.T) { testArtifact(t, s) })
	t.Run("processes", func(t *testing.T) { testProcesses(t, s) })
	t.Run("bundle rules", func(t *testing.T) { testRules(t, s) })
	t.Run("wall", func(t *testing.T) { testWall(t, s) })
	t.Run("raw packets", func(t *testing.T) { testRaw(t, s) })
	// None of this was to look like a leak, or the machine would have been
	// stopped and silence would have proven nothing.
	for _, b := range []*v1alpha1.Bottle{s.ruled, s.walled} {
		if err := s.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEgressEnforced)
		if c == nil {
			t.Fatalf("Bottle %s after the attacks: got %s, want a word about its egress", b.Name, story.Conditions(b))
		}
		if c.Reason == v1alpha1.ReasonLeakDetected {
			t.Errorf("Bottle %s after the attacks: got %s, want no leak", b.Name, c.Message)
		}
		t.Logf("Bottle %s after the attacks: EgressEnforced=%s %s: %s", b.Name, c.Status, c.Reason, c.Message)
		if !running(b) {
			t.Errorf("Bottle %s after the attacks: got %s, want its machine running", b.Name, story.Conditions(b))
		}
	}
}

func newSite(t *testing.T) *site {
	s := &site{Cluster: story.Connect(t, 2*time.Minute), patience: 3 * time.Second}
	s.real = s.Real(t)
	if s.real {
		s.Timeout, s.patience = 12*time.Minute, 10*time.Second
	}
	s.version = strings.TrimSpace(s.Exec(t, node, "smolvm", "--version"))
	t.Logf("%s, real machines: %v", s.version, s.real)

	ns := s.Namespace(t)
	s.ruled = builders.MakeBottle("ruled").Namespace(ns).Pin(node).Allow(standing...).Obj()
	s.walled = builders.MakeBottle("walled").Namespace(ns).Pin(node).BundleImage("example.test/foreign-bundle:1").BundlePorts(declared).Obj()
	s.Apply(t, s.ruled, s.walled)
	// Not for Ready: what a proof comes to is not what is asked here.
	for _, b := range []*v1alpha1.Bottle{s.ruled, s.walled} {
		s.WaitFor(t, b, "to run", func() bool { return running(b) })
	}
	return s
}

// running: a guest of b's can be attacked from.
func running(b *v1alpha1.Bottle) bool {
	return meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionBundleReady) &&
		meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionMachineReady)
}

// nonce tells one run's traces from another's.
func nonce() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func bundleIP(b *v1alpha1.Bottle) string { return b.Status.Network.BundleIP }

// bridge is the interface of b's network on the node.
func bridge(b *v1alpha1.Bottle) string { return "bb-" + string(b.UID)[:8] }

// wallNS is the file of b's machine's network namespace.
func wallNS(b *v1alpha1.Bottle) string { return "/run/netns/" + story.ID(b) }
