// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

// awkward are values that break code that is careless with TOML, shells or C
// strings.
var awkward = map[string]string{
	"QUOTES":   `say "hi" and 'ho' and """ and '''`,
	"LINES":    "one\ntwo\r\nthree\n#end",
	"TOML":     "x = [1, 2]\n[network]\nallow_cidrs = [\"0.0.0.0/0\"]",
	"BACK":     `C:\new\u0041\`,
	"EMOJI":    "\U0001F600 größe",
	"CONTROL":  "\x01\x1b[31m\x7f\u0085x",
	"DOLLAR":   "$HOME `id` ${PATH} %s",
	"EQUALS":   "a=b=c",
	"LEADING":  "  two spaces first",
	"EMPTY":    "",
	"TABINNER": "a\tb",
}

func TestEnvArrivesByteForByte(t *testing.T) {
	t.Parallel()
	c := connect(t)
	make := builders.MakeBottle("env").Namespace(c.Namespace(t)).Slug("env")
	for name, value := range awkward {
		make.Env(name, value)
	}
	b := make.Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)

	got := guestEnv(c.Guest(t, b, "cat", "/proc/self/environ"))
	for name, want := range awkward {
		if got[name] != want {
			t.Errorf("%s in the guest: got %q, want %q", name, got[name], want)
		}
	}
	for name, want := range map[string]string{
		"HTTPS_PROXY":      "http://" + b.Status.Network.BundleIP + ":8888",
		"no_proxy":         "localhost,127.0.0.1,::1,0.0.0.0," + b.Status.Network.BundleIP,
		"BOTTLE_BUNDLE_IP": b.Status.Network.BundleIP,
		"JAVA_TOOL_OPTIONS": "-Dhttp.proxyHost=" + b.Status.Network.BundleIP + " -Dhttp.proxyPort=8888 -Dhttps.proxyHost=" + b.Status.Network.BundleIP + " -Dhttps.proxyPort=8888" +
			" -Dhttp.nonProxyHosts=localhost|127.*|[::1]|0.0.0.0|" + b.Status.Network.BundleIP + " -Daether.connector.http.useSystemProperties=true",
	} {
		if got[name] != want {
			t.Errorf("%s in the guest: got %q, want %q", name, got[name], want)
		}
	}
	// The stand-in does not enforce smolvm's policy, and the proof reports that.
	if got := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEgressEnforced); got == nil || got.Reason != v1alpha1.ReasonHostWall {
		t.Errorf("EgressEnforced: got %+v, want reason HostWall", got)
	}
	c.DeleteAndWait(t, b)
	wantNothingLeft(t, c, story.NodeOf(b), b)
}

func guestEnv(environ string) map[string]string {
	env := map[string]string{}
	for entry := range strings.SplitSeq(environ, "\x00") {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env[name] = value
		}
	}
	return env
}

func TestSmolfileHasTwoKeys(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := builders.MakeBottle("two").Namespace(c.Namespace(t)).Slug("two-keys").Env("A", "1").Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	file := c.Exec(t, story.NodeOf(b), "cat", b.Status.Smolfile.Path)
	for line := range strings.Lines(file) {
		key, _, isKey := strings.Cut(line, " = ")
		if isKey && !strings.HasPrefix(line, " ") && key != "env" && key != "allow_cidrs" {
			t.Errorf("Smolfile has key %q, want env and [network] allow_cidrs only:\n%s", key, file)
		}
	}
	if want := fmt.Sprintf("%s/32", b.Status.Network.BundleIP); !strings.Contains(file, want) {
		t.Errorf("Smolfile lacks %s:\n%s", want, file)
	}
	if mode := c.Exec(t, story.NodeOf(b), "stat", "-c", "%a", b.Status.Smolfile.Path); strings.TrimSpace(mode) != "600" {
		t.Errorf("mode of the Smolfile: got %s, want 600", mode)
	}
}

// The guest's proxy variables point to the default bundle. The bundle denies what no
// rule allows, and it applies a new rule without a new container.
func TestDefaultBundleAnswersTheGuest(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := builders.MakeBottle("proxy").Namespace(c.Namespace(t)).Slug("proxy").Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	container := *b.Status.Bundle.ContainerID
	fetch := func() string {
		r := c.TryExec(t, story.NodeOf(b), "smolvm", "machine", "exec", "--name", story.ID(b), "--",
			"sh", "-c", "wget -O- http://denied.invalid:80/ 2>&1")
		return r.Stdout + r.Stderr
	}
	if got := fetch(); !strings.Contains(got, "403") {
		t.Errorf("a host that no rule allows: got %q, want 403", got)
	}
	c.Change(t, b, func() { b.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"denied.invalid:80"}} })
	// The rule allows the name, but it cannot be resolved, so the proxy answers 502.
	c.Eventually(t, "the new rule to apply and the proxy to answer 502", func() (string, bool) {
		got := fetch()
		return got, strings.Contains(got, "502")
	})
	c.WaitRunning(t, b)
	if got := *b.Status.Bundle.ContainerID; got != container {
		t.Errorf("container after a change of rules: got %s, want the same %s", got, container)
	}
}

func TestAgentRestartChangesNothing(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	bottles := []*v1alpha1.Bottle{bottleOn(node1, ns, "a", "still-a"), bottleOn(node1, ns, "b", "still-b")}
	c.Apply(t, bottles...)
	c.WaitRunning(t, bottles...)
	snapshot := func() string {
		return c.Exec(t, node1, "docker", "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.CreatedAt}}") +
			c.Exec(t, node1, "docker", "network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}}") +
			sortedMachines(t, c.Exec(t, node1, "smolvm", "machine", "ls", "--json")) +
			c.Exec(t, node1, "find", "/var/lib/bottle/bottles", "-type", "f", "-printf", "%p %s %T@\n")
	}
	before := snapshot()
	c.Run(t, "agent-stop", node1)
	c.Run(t, "agent-start", node1)
	// Once the restarted agent has handled a new Bottle, it has also inspected the
	// old ones.
	fresh := bottleOn(node1, ns, "c", "fresh")
	c.Apply(t, fresh)
	c.WaitRunning(t, fresh)
	c.DeleteAndWait(t, fresh)
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(snapshot(), "\n")); diff != "" {
		t.Errorf("the node after a restart of its agent (-before +after):\n%s", diff)
	}
}

func sortedMachines(t *testing.T, list string) string {
	t.Helper()
	var machines []struct {
		Name, State string
		PID         int
	}
	if err := json.Unmarshal([]byte(list), &machines); err != nil {
		t.Fatal(err)
	}
	lines := []string{}
	for _, m := range machines {
		lines = append(lines, fmt.Sprintf("%s %s %d\n", m.Name, m.State, m.PID))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func TestServerSideApplyTwiceWithoutDiff(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := builders.MakeBottle("twice").Namespace(c.Namespace(t)).Slug("twice").Env("A", "1").Obj()
	b.APIVersion, b.Kind = v1alpha1.GroupVersion.String(), "Bottle"
	manifest, err := yaml.Marshal(map[string]any{"apiVersion": b.APIVersion, "kind": b.Kind,
		"metadata": map[string]any{"name": b.Name, "namespace": b.Namespace}, "spec": b.Spec})
	if err != nil {
		t.Fatal(err)
	}
	apply := func() {
		if out, err := c.Kubectl(manifest, "apply", "--server-side", "-f", "-"); err != nil {
			t.Fatalf("apply: %v\n%s", err, out)
		}
	}
	apply()
	c.WaitRunning(t, b)
	if out, err := c.Kubectl(manifest, "diff", "--server-side", "-f", "-"); err != nil {
		t.Errorf("kubectl diff of a running Bottle: %v, want no difference\n%s", err, out)
	}
	// The last writes of the manager and the agent may not have arrived yet.
	var version string
	c.Eventually(t, "two reads a second apart to agree", func() (string, bool) {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
			return err.Error(), false
		}
		version = b.ResourceVersion
		time.Sleep(time.Second)
		err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b)
		return fmt.Sprintf("%s, then %s (%v)", version, b.ResourceVersion, err), err == nil && b.ResourceVersion == version
	})
	apply()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
		t.Fatal(err)
	}
	if b.ResourceVersion != version {
		t.Errorf("resourceVersion after a second apply: got %s, want %s", b.ResourceVersion, version)
	}
}

func TestStoppedIsReadyOnceVerified(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := builders.MakeBottle("stop").Namespace(c.Namespace(t)).Slug("stop").Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.Guest(t, b, "sh", "-c", "echo kept > /root/file; sync")
	c.Change(t, b, func() { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	c.WaitReason(t, b, v1alpha1.ConditionReady, v1alpha1.ReasonStopped)
	if !meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("Ready of a Bottle stopped as requested: got %s, want True", story.Conditions(b))
	}
	if list := c.Exec(t, story.NodeOf(b), "smolvm", "machine", "status", "--name", story.ID(b), "--json"); !strings.Contains(list, `"stopped"`) {
		t.Errorf("machine of a stopped Bottle: got %s, want state stopped", list)
	}
	c.Change(t, b, func() { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	c.WaitRunning(t, b)
	if got := strings.TrimSpace(c.Guest(t, b, "cat", "/root/file")); got != "kept" {
		t.Errorf("a file after stop and start: got %q, want %q", got, "kept")
	}
}

func TestKilledMachineIsRestarted(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := builders.MakeBottle("kill").Namespace(c.Namespace(t)).Slug("kill").Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid := wantPID(t, b)
	c.Exec(t, story.NodeOf(b), "kill", "-9", fmt.Sprint(pid))
	c.WaitFor(t, b, "to run again after its VMM was killed", func() bool {
		m := b.Status.Machine
		return m != nil && m.PID != nil && pidOf(b) != pid && story.Running(b) &&
			m.Restarts != nil && *m.Restarts == 1 && m.LastLoss != nil
	})
	c.Eventually(t, "the Event about the lost machine", func() (string, bool) {
		events := &corev1.EventList{}
		err := c.List(t.Context(), events, client.InNamespace(b.Namespace))
		seen := []string{}
		for _, e := range events.Items {
			seen = append(seen, fmt.Sprintf("%s %s %s", e.InvolvedObject.Name, e.Type, e.Reason))
		}
		return fmt.Sprintf("%q (%v)", seen, err), slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == b.Name && e.Reason == "MachineLost" && e.Type == corev1.EventTypeWarning
		})
	})
}
