// SPDX-License-Identifier: Apache-2.0

// Package upgrade runs Bottles with an earlier release of the operator on a cluster of
// its own, and then upgrades the managers and the agent.
package upgrade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

const (
	node = "node-1"
	// beforeAccess is the commit before agents had an access server and lost their right
	// to read Secrets.
	beforeAccess = "7dd7100d62627f7b5028427aaa11e3a8ce442505"
	// beforeChart is the commit before the operator had images, a DaemonSet and a chart.
	beforeChart = "1ac721d68d8e3a53b27ad5fa236af1de891a16f6"
)

func TestMain(m *testing.M) { story.Main(m) }

func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// script runs a script of the repository with additional environment variables, and
// returns what it printed.
func script(t *testing.T, env []string, path string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(root(), path), args...)
	cmd.Dir, cmd.Env = root(), append(os.Environ(), env...)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", path, err, out, errors.String())
	}
	return strings.TrimSpace(string(out))
}

// release is where the programs of a release are, and its configuration.
type release struct{ programs, config string }

func current() release {
	return release{filepath.Join(root(), "bin"), filepath.Join(root(), "config", "dev")}
}

// startOld starts a cluster with the release of a commit, and returns both. The cluster is
// stopped when the test ends.
func startOld(t *testing.T, commit string) (*story.Cluster, release) {
	t.Helper()
	require.Root(t)
	bin := filepath.Join(root(), "bin")
	require.File(t, filepath.Join(bin, "bottle-operator"), "make build")
	require.File(t, filepath.Join(bin, "standin"), "MACHINES=standin hack/prepare")
	programs := script(t, nil, "hack/upgrade/build", commit)
	old := release{programs, filepath.Join(programs, "config", "dev")}
	t.Setenv("DEV_DIR", filepath.Join(bin, "test-upgrade"))
	t.Cleanup(func() { script(t, nil, "hack/dev/down") })
	script(t, []string{"NODES=1", "MACHINES=standin", "PROGRAMS=" + old.programs, "CONFIG=" + old.config}, "hack/dev/up")
	return story.Connect(t, 3*time.Minute), old
}

// replaceManagers applies the configuration of a release and replaces the managers. From
// then on, agent-start replaces the agent, too.
func replaceManagers(t *testing.T, c *story.Cluster, to release) {
	t.Helper()
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(c.Dir, path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	relative, err := filepath.Rel(filepath.Join(c.Dir, "install"), to.config)
	if err != nil {
		t.Fatal(err)
	}
	write("install/kustomization.yaml", fmt.Sprintf("{namespace: %s, resources: [%q]}", c.SystemNamespace(t), relative))
	if out, err := c.Kubectl(nil, "apply", "--server-side", "-k", filepath.Join(c.Dir, "install")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	write("programs", to.programs)
	for _, number := range []string{"1", "2"} {
		c.Run(t, "manager-start", number)
	}
}

// guarded is a Bottle that must not notice the upgrade.
type guarded struct {
	*v1alpha1.Bottle
	before v1alpha1.BottleStatus

	mu       sync.Mutex
	problems []string
}

// watch records everything in b's status that shows that the machine was touched, until
// the test ends.
func watch(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) *guarded {
	t.Helper()
	g := &guarded{Bottle: b, before: *b.Status.DeepCopy()}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			g.follow(ctx, c)
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return g
}

// follow watches until the watch ends.
func (g *guarded) follow(ctx context.Context, c *story.Cluster) {
	w, err := c.Watch(ctx, &v1alpha1.BottleList{}, client.InNamespace(g.Namespace), client.MatchingFields{"metadata.name": g.Name})
	if err != nil {
		time.Sleep(100 * time.Millisecond)
		return
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if b, ok := event.Object.(*v1alpha1.Bottle); ok {
			g.judge(b.Status)
		}
	}
}

func (g *guarded) judge(now v1alpha1.BottleStatus) {
	problem := func(format string, args ...any) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if text := fmt.Sprintf(format, args...); len(g.problems) == 0 || g.problems[len(g.problems)-1] != text {
			g.problems = append(g.problems, text)
		}
	}
	if got := meta.FindStatusCondition(now.Conditions, v1alpha1.ConditionPendingRestart); got != nil {
		problem("PendingRestart: %s", got.Message)
	}
	if got := meta.FindStatusCondition(now.Conditions, v1alpha1.ConditionEgressEnforced); got == nil || got.Status == metav1.ConditionFalse {
		problem("EgressEnforced: %+v", got)
	}
	if got := now.Machine; got == nil || got.PID == nil || *got.PID != *g.before.Machine.PID || !got.StartTime.Equal(g.before.Machine.StartTime) {
		problem("machine: %+v", got)
	}
	if now.NodeName == nil || *now.NodeName != node {
		problem("the Bottle left its node")
	}
}

// wantUntouched fails the test if anything has happened to the machine.
func (g *guarded) wantUntouched(t *testing.T, when string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.problems {
		t.Errorf("%s: got %s, want the machine untouched", when, p)
	}
	g.problems = nil
}

func secretOf(ns, value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "agent"}, StringData: map[string]string{"token": value}}
}

// token returns the value of TOKEN in a new process of b's guest.
func token(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) string {
	t.Helper()
	for entry := range strings.SplitSeq(c.Guest(t, b, "cat", "/proc/self/environ"), "\x00") {
		if value, ok := strings.CutPrefix(entry, "TOKEN="); ok {
			return value
		}
	}
	return ""
}

// The managers are upgraded first, and then the agent. A machine keeps running behind
// its wall meanwhile, and its Secrets keep working afterwards.
func TestLongUpgrade(t *testing.T) {
	require.Long(t)
	c, _ := startOld(t, beforeAccess)
	ns := c.Namespace(t)
	if err := c.Create(t.Context(), secretOf(ns, "first-value")); err != nil {
		t.Fatal(err)
	}
	before := builders.MakeBottle("before").Namespace(ns).Slug("before").EnvFromSecret("TOKEN", "agent", "token").Command(story.Dialer...).Obj()
	stopped := builders.MakeBottle("stopped").Namespace(ns).Slug("stopped").EnvFromSecret("TOKEN", "agent", "token").Obj()
	c.Apply(t, before, stopped)
	c.WaitRunning(t, before, stopped)
	c.Change(t, stopped, func() { stopped.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	c.WaitRunning(t, stopped)
	counter := c.StartCounter(t, before, "")
	g := watch(t, c, before)

	replaceManagers(t, c, current())
	between := builders.MakeBottle("between").Namespace(ns).Slug("between").Obj()
	c.Apply(t, between)
	c.WaitRunning(t, between) // by the new managers and the old agent
	g.wantUntouched(t, "managers upgraded")

	c.Run(t, "agent-start", node) // replaces it
	after := builders.MakeBottle("after").Namespace(ns).Slug("after").EnvFromSecret("TOKEN", "agent", "token").Obj()
	c.Apply(t, after)
	c.WaitRunning(t, after, before, between)
	g.wantUntouched(t, "agent upgraded")
	if n, _ := counter.Read(t); n != 0 {
		t.Errorf("got %d connections through the wall, want none", n)
	}
	if got := token(t, c, after); got != "first-value" {
		t.Errorf("TOKEN of a new Bottle: got %q, want the Secret's value", got)
	}
	c.Change(t, stopped, func() { stopped.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	c.WaitRunning(t, stopped)

	// A change of the Secret reaches the machine of before.
	if err := c.Update(t.Context(), secretOf(ns, "second-value")); err != nil {
		t.Fatal(err)
	}
	c.WaitFor(t, before, "to wait for a restart", func() bool {
		return meta.IsStatusConditionTrue(before.Status.Conditions, v1alpha1.ConditionPendingRestart)
	})
	c.Change(t, before, func() { before.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: "1"} })
	c.WaitFor(t, before, "to run again", func() bool {
		m := before.Status.Machine
		return story.Running(before) && m != nil && m.PID != nil && *m.PID != *g.before.Machine.PID
	})
	if got := token(t, c, before); got != "second-value" {
		t.Errorf("TOKEN after the change and a restart: got %q, want the new value", got)
	}

	// The counter does count: without the wall, the guest gets through.
	resume := c.Freeze(t, node, "agent")
	story.Breaches[0].Break(t, c, before)
	c.Eventually(t, "the guest to get through", func() (string, bool) {
		n, _ := counter.Read(t)
		return fmt.Sprint(n), n > 0
	})
	resume()
}
