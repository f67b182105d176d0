// SPDX-License-Identifier: Apache-2.0

// Package kubelet tests the chart on a node with a real kubelet. A Bottle runs through
// restarts, an upgrade and a drain, and at last the operator is uninstalled. All of this is
// one test whose steps build on each other, because a machine takes most of a minute to
// boot on an emulated node.
package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

const (
	node = "node-1"
	root = "../.." // of the repository
)

func TestMain(m *testing.M) { story.Main(m) }

// world is the cluster, and what the steps leave for later ones.
type world struct {
	*story.Cluster
	system string // the operator's namespace
	ns     string // the Bottles' and Pods'
	pods   *pods
	kept   *v1alpha1.Bottle
	before identity
}

func connect(t *testing.T) *world {
	c := story.Connect(t, 4*time.Minute)
	kind, err := os.ReadFile(filepath.Join(c.Dir, "kubelet"))
	if err != nil || strings.TrimSpace(string(kind)) != "real" {
		require.Unmet(t, "needs a cluster with a real kubelet: make dev-up KUBELET=real")
	}
	return &world{Cluster: c, system: c.SystemNamespace(t), ns: c.Namespace(t)}
}

func TestOperatorOnARealKubelet(t *testing.T) {
	w := connect(t)
	for _, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"the chart is installed", w.wantInstalled},
		{"Pods reach each other", w.startPods},
		{"a Bottle runs, and another returns its exit code", w.runBottles},
		{"neither Pods nor the node can be reached from a Bottle", w.wantUnreachable},
		{"no Pod reaches the bundle", w.onPods(w.testReach)},
		{"a NetworkPolicy stops the bundle", w.onPods(w.enforcePolicy)},
		{"a wall is taken away", w.onPods(func(t *testing.T) { w.breakWalls(t, shortBreaches()) })},
		{"something happens to the Bottle's Pod", w.onPods(func(t *testing.T) { w.disturb(t, shortDisturbances()) })},
		{"the agent's Pod is deleted", w.deleteAgent},
		{"containerd and kubelet are killed", w.killParts},
		{"the chart is upgraded to another image", w.upgrade},
		{"the chart is rolled back", w.rollBack},
		{"Pods still reach each other", func(t *testing.T) { w.pods.wantTraffic(t) }},
		{"uninstalling is refused", w.wantRefused},
		{"the node is drained", w.drain},
		{"without Bottles, uninstalling leaves nothing", w.uninstall},
		{"Pods reach each other without the operator", func(t *testing.T) { w.pods.wantTraffic(t) }},
	} {
		begin := time.Now()
		ok := t.Run(step.name, step.do)
		t.Logf("%s: %s", step.name, time.Since(begin).Round(time.Second))
		if !ok {
			t.FailNow() // the other steps depend on it
		}
	}
}

// onPods returns a step that does nothing unless the bundles run in Pods.
func (w *world) onPods(do func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) {
		if w.OnPods(t) {
			do(t)
		}
	}
}

// proven is the line of kubectl bottle run for a Bottle whose walls are both proven.
var proven = regexp.MustCompile(`(?m)^EgressEnforced +` + v1alpha1.ReasonBothWalls)

// runBottles runs the sample as a user does, and then starts one that is kept until the end.
// Two at once do not fit on the node.
func (w *world) runBottles(t *testing.T) {
	// A command that waits for files starts after the proof.
	got := w.Bottle(t, nil, "run", "-n", w.ns, "-f", filepath.Join(root, "config/samples/job.yaml"),
		"--env", "EXIT_CODE=42", "--copy-in", t.TempDir()+":/work")
	if got.Code != 42 || got.Stdout != "done\n" || !proven.MatchString(got.Stderr) {
		t.Errorf("kubectl bottle run: got %+v, want exit code 42, the command's output, and the proof", got)
	}
	w.startKept(t)
}

// startKept starts the Bottle that is kept until the end.
func (w *world) startKept(t *testing.T) {
	// The rule covers the Pods, and the platform's limits close them again.
	w.kept = builders.MakeBottle("kept").Namespace(w.ns).Slug("kept").Allow("10.0.0.0/8:" + podPort).Obj()
	w.Apply(t, w.kept)
	w.WaitRunning(t, w.kept)
	w.WaitReason(t, w.kept, v1alpha1.ConditionEgressEnforced, v1alpha1.ReasonBothWalls)
	w.before = w.identify(t)
	t.Logf("the machine: %+v", w.before)
}

// identity is what changes if a machine is started again.
type identity struct {
	pid       string
	startTime string // of the VMM, in ticks
	bootID    string // of the guest's kernel
	uptime    float64
}

// identify returns the identity of the machine of the kept Bottle.
func (w *world) identify(t *testing.T) identity {
	t.Helper()
	if err := w.Get(t.Context(), client.ObjectKeyFromObject(w.kept), w.kept); err != nil {
		t.Fatal(err)
	}
	m := w.kept.Status.Machine
	if m == nil || m.PID == nil {
		t.Fatalf("machine of the Bottle: got %+v, want its pid", m)
	}
	i := identity{pid: fmt.Sprint(*m.PID)}
	stat := w.Exec(t, node, "cat", "/proc/"+i.pid+"/stat")
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	i.startTime = fields[19]
	guest := w.Guest(t, w.kept, "cat", "/proc/sys/kernel/random/boot_id", "/proc/uptime")
	if _, err := fmt.Sscan(guest, &i.bootID, &i.uptime); err != nil {
		t.Fatalf("the guest printed %q: %v", guest, err)
	}
	return i
}

// vmmRuns reports whether the node has a process with this pid, which is that of a VMM.
func (w *world) vmmRuns(t *testing.T, pid string) bool {
	t.Helper()
	return w.TryExec(t, node, "test", "-d", "/proc/"+pid).Code == 0
}

// machineIP returns the address of a Bottle's machine.
func machineIP(b *v1alpha1.Bottle) string {
	return strings.TrimSuffix(b.Status.Network.BundleIP, ".2") + ".3"
}

// wantMachineKept checks that the machine has run without a break since it was identified
// last, and logs for how long nobody guarded it.
func (w *world) wantMachineKept(t *testing.T) {
	t.Helper()
	w.WaitRunning(t, w.kept)
	now := w.identify(t)
	if now.pid != w.before.pid || now.startTime != w.before.startTime || now.bootID != w.before.bootID || now.uptime <= w.before.uptime {
		t.Errorf("the machine: got %+v, want the one of %+v with a later uptime", now, w.before)
	}
	if got := meta.FindStatusCondition(w.kept.Status.Conditions, v1alpha1.ConditionPendingRestart); got != nil {
		t.Errorf("got PendingRestart: %s", got.Message)
	}
	w.before = now
}

// unguarded returns for how many seconds nobody guarded the node's machines before the
// agent that runs now.
func (w *world) unguarded(t *testing.T) (seconds float64) {
	t.Helper()
	const name = "bottle_agent_unguarded_seconds"
	for line := range strings.Lines(w.Exec(t, node, "busybox", "wget", "-qO-", "http://127.0.0.1:9444/metrics")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(value, &seconds); err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
			return seconds
		}
	}
	t.Fatalf("the agent's metrics: got no %s", name)
	return 0
}

// drain evicts the placeholder, as a drain of the node does. The managers stay: on a
// cluster of one node, their PodDisruptionBudget keeps one of them in place.
func (w *world) drain(t *testing.T) {
	w.mustKubectl(t, "drain", node, "--pod-selector", "botbottle.dev/uid", "--delete-emptydir-data", "--timeout", w.Timeout.String())
	w.WaitFor(t, w.kept, "to leave the node", func() bool { return w.kept.Status.NodeName == nil })
	if w.vmmRuns(t, w.before.pid) {
		t.Errorf("VMM %s: got it running, want it gone with the placeholder", w.before.pid)
	}
	w.mustKubectl(t, "uncordon", node)
}

func (w *world) mustKubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.Kubectl(nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
