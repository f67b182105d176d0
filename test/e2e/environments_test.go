// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

// secretFile returns the value of TOKEN that b's next start will get.
func secretFile(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) string {
	t.Helper()
	return c.Exec(t, story.NodeOf(b), "cat", "/var/lib/bottle/bottles/"+string(b.UID)+"/secrets/TOKEN")
}

func createSecret(t *testing.T, c *story.Cluster, namespace string) *corev1.Secret {
	t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: namespace}, StringData: map[string]string{"token": "one"}}
	if err := c.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func setToken(t *testing.T, c *story.Cluster, s *corev1.Secret, value string) {
	t.Helper()
	if err := c.Patch(t.Context(), s, client.RawPatch("application/merge-patch+json", []byte(`{"stringData":{"token":"`+value+`"}}`))); err != nil {
		t.Fatal(err)
	}
}

// While no manager runs, machines keep running, and so do agents that start then. Once
// a manager is back, whichever replica it is, the agent learns what has changed.
func TestManagersAreAway(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	s := createSecret(t, c, ns)
	b := builders.MakeBottle("alone").Namespace(ns).Slug("alone").EnvFromSecret("TOKEN", "s", "token").Pin(node1).Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid := wantPID(t, b)
	changed := time.Now()
	setToken(t, c, s, "two")
	c.Eventually(t, "the Secret's change to reach the node", func() (string, bool) {
		got := secretFile(t, c, b)
		return got, got == "two"
	})
	t.Logf("the Secret's change was on the node after %v, with the time of looking", time.Since(changed).Round(time.Millisecond))

	start := func() {
		for _, number := range []string{"1", "2"} {
			c.Run(t, "manager-start", number)
		}
	}
	c.Run(t, "manager-stop", "1")
	c.Run(t, "manager-stop", "2")
	t.Cleanup(start)
	setToken(t, c, s, "three")
	c.Run(t, "agent-stop", node1)
	c.Run(t, "agent-start", node1)
	cond := c.WaitReason(t, b, v1alpha1.ConditionSmolfileReady, v1alpha1.ReasonEnvironmentNotReady)
	if !strings.Contains(cond.Message, `Secret "s"`) {
		t.Errorf("message: got %q, want it to name the Secret", cond.Message)
	}
	if got := guestEnv(c.Guest(t, b, "cat", "/proc/self/environ"))["TOKEN"]; got == "" {
		t.Errorf("TOKEN in the guest: got none; the machine must keep running")
	}
	if got := secretFile(t, c, b); got != "two" {
		t.Errorf("file for the next start: got %q, want the last value that was known", got)
	}
	c.Run(t, "manager-start", "2") // one replica is enough, whichever it is
	c.WaitRunning(t, b)
	c.Eventually(t, "the change to reach the node", func() (string, bool) {
		got := secretFile(t, c, b)
		return got, got == "three"
	})
	if got := pidOf(b); got != pid {
		t.Errorf("pid of the machine: got %d, want %d, because nothing stopped it", got, pid)
	}
}

// Roles can narrow what the manager reads to some namespaces. A Bottle in another one
// says which right is missing, and recovers when it is granted.
func TestForbiddenNamespace(t *testing.T) {
	c := connect(t)
	const role = "bottle-manager-environments"
	all := &rbacv1.ClusterRoleBinding{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: role}, all); err != nil {
		t.Fatal(err)
	}
	restore := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role, Labels: all.Labels, Annotations: all.Annotations}, RoleRef: all.RoleRef, Subjects: all.Subjects}
	if err := c.Delete(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Create(context.Background(), restore); err != nil {
			t.Error(err)
		}
	})
	bind := func(namespace string) {
		t.Helper()
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: role}, RoleRef: all.RoleRef, Subjects: all.Subjects}
		if err := c.Create(t.Context(), binding); err != nil {
			t.Fatal(err)
		}
	}
	allowed, forbidden := c.Namespace(t), c.Namespace(t)
	bind(allowed)
	bottles := map[string]*v1alpha1.Bottle{}
	for _, ns := range []string{allowed, forbidden} {
		createSecret(t, c, ns)
		bottles[ns] = builders.MakeBottle("narrow").Namespace(ns).Slug("narrow").EnvFromSecret("TOKEN", "s", "token").Pin(node1).Obj()
		c.Apply(t, bottles[ns])
	}
	cond := c.WaitReason(t, bottles[forbidden], v1alpha1.ConditionSmolfileReady, v1alpha1.ReasonEnvironmentForbidden)
	for _, word := range []string{`Secret "s"`, "get, list and watch", forbidden, role} {
		if !strings.Contains(cond.Message, word) {
			t.Errorf("message: got %q, want %q in it", cond.Message, word)
		}
	}
	c.WaitRunning(t, bottles[allowed])
	bind(forbidden)
	c.WaitRunning(t, bottles[forbidden])
}
