// SPDX-License-Identifier: Apache-2.0

// Package escape attacks a running development cluster from inside its Bottles.
// Each attack first runs with its barrier removed and must succeed, so that its
// later failure means something. Then it runs with the barrier and must fail. The
// result is judged mainly by what the pretend outside world, listeners on the node
// and packet captures observed, and only secondarily by what the attacker saw.
//
// Four barriers stop attacks, and each case names its own:
//   - a bundle rule: it is removed by allowing the attack's destination in
//     spec.egress.allow (rules_test.go);
//   - what the bundle checks in the requests to an opened host: it is removed by
//     allowing the host in spec.egress.allow instead, or by letting the secret pass
//     (opened_test.go);
//   - the wall: the attack succeeds from a machine without policy on the node's own
//     network, or on that of the bundle's Pod (wall_test.go), and from a namespace on
//     the same bridge without a filter (raw_test.go);
//   - smolvm's policy: without the wall, the attack succeeds from a machine without
//     a policy and fails from one with a policy (wall_test.go; real microVMs only,
//     because a stand-in enforces nothing).
//
// In addition, a machine is identified by its cgroup: neither a process that looks
// like its VMM, nor a VMM that looks like another process, changes how the machine
// is treated (process_test.go).
//
// DEV_DIR names the cluster. Its machines may be real or stand-ins.
package escape

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

const node = "node-1"

func TestMain(m *testing.M) { story.Main(m) }

// site is the cluster, with the Bottles that are attacked from.
type site struct {
	*story.Cluster
	// real reports that machines are microVMs, not stand-ins.
	real bool
	// version is the output of smolvm --version.
	version string
	// ruled is a Bottle with the default bundle. walled is a Bottle with a bundle
	// that listens on more ports than the Bottle declares.
	ruled, walled *v1alpha1.Bottle
	// attackTimeout is how long one attack waits for an answer.
	attackTimeout time.Duration
}

func TestEscape(t *testing.T) {
	s := newSite(t)
	// These two have a Bottle of their own each. A virtual node has no room for a third.
	t.Run("a machine from an artifact", func(t *testing.T) { testArtifact(t, s) })
	t.Run("processes", func(t *testing.T) { testProcesses(t, s) })
	s.startBottles(t)
	t.Run("bundle rules", func(t *testing.T) { testRules(t, s) })
	t.Run("opened hosts", func(t *testing.T) { testOpened(t, s) })
	t.Run("wall", func(t *testing.T) { testWall(t, s) })
	t.Run("raw packets", func(t *testing.T) { testRaw(t, s) })
	// None of the attacks may have looked like a leak. The agent would have stopped
	// the machine, and the failure of later attacks would prove nothing.
	for _, b := range []*v1alpha1.Bottle{s.ruled, s.walled} {
		if err := s.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEgressEnforced)
		if c == nil {
			t.Fatalf("Bottle %s after the attacks: got %s, want the condition EgressEnforced", b.Name, story.Conditions(b))
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
	s := &site{Cluster: story.Connect(t, 2*time.Minute), attackTimeout: 3 * time.Second}
	s.real = s.Real(t)
	if s.real {
		s.Timeout, s.attackTimeout = 12*time.Minute, 10*time.Second
	}
	s.version = strings.TrimSpace(s.Exec(t, node, "smolvm", "--version"))
	t.Logf("%s, real machines: %v", s.version, s.real)
	return s
}

// startBottles starts the Bottles that are attacked from.
func (s *site) startBottles(t *testing.T) {
	t.Helper()
	ns := s.Namespace(t)
	s.createSecrets(t, ns)
	s.ruled = builders.MakeBottle("ruled").Namespace(ns).Pin(node).Allow(standingRules...).Rules(openedRules()...).
		EnvFromSecret("STOLEN", "stolen", "value").Obj()
	s.walled = builders.MakeBottle("walled").Namespace(ns).Pin(node).BundleImage("example.test/foreign-bundle:1").BundlePorts(declared).Obj()
	s.Apply(t, s.ruled, s.walled)
	// Do not wait for Ready: these tests do not depend on the proof's result.
	for _, b := range []*v1alpha1.Bottle{s.ruled, s.walled} {
		s.WaitFor(t, b, "to run", func() bool { return running(b) })
	}
}

// running reports whether attacks can run in b's guest.
func running(b *v1alpha1.Bottle) bool {
	return meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionBundleReady) &&
		meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionMachineReady)
}

// nonce returns a random string that distinguishes the traces of different runs.
func nonce() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func bundleIP(b *v1alpha1.Bottle) string { return b.Status.Network.BundleIP }

// bridge returns the node's interface for b's network.
func bridge(b *v1alpha1.Bottle) string { return "bb-" + string(b.UID)[:8] }

// wallNS returns the path of the network namespace of b's machine.
func wallNS(b *v1alpha1.Bottle) string { return "/run/netns/" + story.ID(b) }
