// SPDX-License-Identifier: Apache-2.0

// Package story drives a running development cluster as its users do: it applies
// Bottles, waits for conditions, and runs commands on nodes and in guests. It does
// not start a cluster; DEV_DIR names the one to use.
package story

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/require"
)

const poll = 200 * time.Millisecond

// Cluster is a running development cluster.
type Cluster struct {
	client.WithWatch
	Dir        string
	Kubeconfig string
	// Timeout is how long a wait may take before the test fails.
	Timeout time.Duration
}

// Result is what a command on a node printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Connect returns the cluster that DEV_DIR names.
func Connect(t testing.TB, timeout time.Duration) *Cluster {
	t.Helper()
	dir := require.Env(t, "DEV_DIR", "make dev-up, then DEV_DIR=$PWD/bin/dev go test …")
	kubeconfig := filepath.Join(dir, "kubeconfig")
	require.File(t, kubeconfig, "make dev-up")
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 200, 400
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{WithWatch: c, Dir: dir, Kubeconfig: kubeconfig, Timeout: timeout}
}

// SystemNamespace returns the namespace that the operator is installed in.
func (c *Cluster) SystemNamespace(t testing.TB) string {
	t.Helper()
	name, err := os.ReadFile(filepath.Join(c.Dir, "namespace"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

// Run runs one of the cluster's own commands, such as agent-stop.
func (c *Cluster) Run(t testing.TB, command string, args ...string) {
	t.Helper()
	if out, err := exec.Command(filepath.Join(c.Dir, command), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", command, args, err, out)
	}
}

// AgentLog returns what the agent of a node has logged so far.
func (c *Cluster) AgentLog(t testing.TB, node string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(c.Dir, "agent-log"), node).Output()
	if err != nil {
		t.Fatalf("agent-log %s: %v", node, err)
	}
	return string(out)
}

// TryExec runs a command on a node and returns its result.
func (c *Cluster) TryExec(t testing.TB, node string, argv ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.Dir, "exec"), append([]string{node}, argv...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, 5*time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("exec on %s: %v: %v", node, argv, err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// Exec runs a command on a node and returns its output. The command must succeed.
func (c *Cluster) Exec(t testing.TB, node string, argv ...string) string {
	t.Helper()
	r := c.TryExec(t, node, argv...)
	if r.Code != 0 {
		t.Fatalf("on %s: %v: exit code %d\n%s%s", node, argv, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Guest runs a command in the guest of b and returns its output. The command must
// succeed.
func (c *Cluster) Guest(t testing.TB, b *v1alpha1.Bottle, argv ...string) string {
	t.Helper()
	return c.Exec(t, NodeOf(b), append([]string{"smolvm", "machine", "exec", "--name", ID(b), "--"}, argv...)...)
}

// Kubectl runs kubectl and returns the output of both streams.
func (c *Cluster) Kubectl(stdin []byte, args ...string) (string, error) {
	kubectl := filepath.Join(filepath.Dir(c.Dir), "kubectl")
	cmd := exec.Command(kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %v: %w\n%s", args, err, out)
	}
	return string(out), err
}

// Namespace creates a namespace for one test. When the test ends, it deletes the
// Bottles in the namespace, waits until they are gone and then deletes the
// namespace.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "story-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if t.Failed() {
			c.explain(t, ns.Name)
		}
		if err := c.DeleteAllOf(ctx, &v1alpha1.Bottle{}, client.InNamespace(ns.Name)); err != nil {
			t.Error(err)
		}
		c.Eventually(t, "the Bottles of namespace "+ns.Name+" to be gone", func() (string, bool) {
			left := &v1alpha1.BottleList{}
			err := c.List(ctx, left, client.InNamespace(ns.Name))
			return fmt.Sprintf("%d left (%v)", len(left.Items), err), err == nil && len(left.Items) == 0
		})
		if err := client.IgnoreNotFound(c.Delete(ctx, ns)); err != nil {
			t.Error(err)
		}
	})
	return ns.Name
}

// explain logs what helps to explain a failure.
func (c *Cluster) explain(t testing.TB, namespace string) {
	for _, args := range [][]string{{"describe", "bottles"}, {"get", "events", "--sort-by=.lastTimestamp"}, {"describe", "pods"}} {
		out, _ := c.Kubectl(nil, append([]string{"-n", namespace}, args...)...)
		t.Logf("kubectl %v:\n%s", args, out[max(0, len(out)-6000):])
	}
}

// Eventually calls check until it returns done, and fails the test after Timeout
// with the last state that check returned.
func (c *Cluster) Eventually(t testing.TB, what string, check func() (state string, done bool)) {
	t.Helper()
	deadline := time.Now().Add(c.Timeout)
	for {
		state, done := check()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s; last state: %s", c.Timeout, what, state)
		}
		time.Sleep(poll)
	}
}
