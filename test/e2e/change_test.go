// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"iter"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

func linesOf(s string) iter.Seq[string] {
	return strings.FieldsFuncSeq(s, func(r rune) bool { return r == '\n' })
}

func TestMissingSecretRecovers(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	b := builders.MakeBottle("waits").Namespace(ns).Slug("waits").
		EnvFromSecret("TOKEN", "s", "token").EnvFromConfigMap("CONFIG", "m", "config").EnvFromSecret("MAYBE", "absent", "k").Obj()
	b.Spec.Env[2].ValueFrom.SecretKeyRef.Optional = ptr(true)
	c.Apply(t, b)
	cond := c.WaitReason(t, b, v1alpha1.ConditionSmolfileReady, v1alpha1.ReasonSecretNotFound)
	if !strings.Contains(cond.Message, `"s"`) && !strings.Contains(cond.Message, "Secret s") {
		t.Errorf("message: got %q, want the Secret named", cond.Message)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: ns}, StringData: map[string]string{"token": "t0k3n-value"}}
	if err := c.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	c.WaitReason(t, b, v1alpha1.ConditionSmolfileReady, v1alpha1.ReasonConfigMapNotFound)
	if err := c.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: ns}, Data: map[string]string{"config": "c"}}); err != nil {
		t.Fatal(err)
	}
	c.WaitRunning(t, b)
	env := guestEnv(c.Guest(t, b, "cat", "/proc/self/environ"))
	if env["TOKEN"] != "t0k3n-value" || env["CONFIG"] != "c" {
		t.Errorf("guest's TOKEN and CONFIG: got %q and %q, want the Secret's and the ConfigMap's", env["TOKEN"], env["CONFIG"])
	}
	if _, found := env["MAYBE"]; found {
		t.Errorf("MAYBE, from an optional absent Secret: got it set, want it left out")
	}
	if smolfile := c.Exec(t, story.NodeOf(b), "cat", b.Status.Smolfile.Path); strings.Contains(smolfile, "t0k3n-value") {
		t.Errorf("the Secret's value is in the Smolfile, want it by reference only")
	}
}

// A change that needs a new machine is reported and stays pending until the user
// requests the new machine.
func TestPendingRestartAndRecreate(t *testing.T) {
	t.Parallel()
	c := connect(t)
	b := builders.MakeBottle("pending").Namespace(c.Namespace(t)).Slug("pending").Env("A", "1").Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	pid := wantPID(t, b)
	c.Change(t, b, func() { b.Spec.Env[0].Value = ptr("2") })
	cond := c.WaitReason(t, b, v1alpha1.ConditionPendingRestart, v1alpha1.ReasonSpecChanged)
	if !strings.Contains(cond.Message, "spec.env") {
		t.Errorf("message: got %q, want spec.env named", cond.Message)
	}
	c.WaitRunning(t, b)
	if got := pidOf(b); got != pid {
		t.Errorf("pid after a pending change: got %d, want %d", got, pid)
	}
	c.Guest(t, b, "sh", "-c", "echo kept > /root/file; sync")
	c.Change(t, b, func() { b.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: "1"} })
	c.WaitFor(t, b, "to be restarted", func() bool { return story.Running(b) && pidOf(b) != 0 && pidOf(b) != pid })
	if got := c.Guest(t, b, "sh", "-c", "cat /root/file; echo $A"); got != "kept\n1\n" {
		t.Errorf("after a restart: got %q, want the disk kept and the old env", got)
	}
	c.Change(t, b, func() { b.Annotations[v1alpha1.AnnotationRecreatedAt] = "1" })
	c.WaitFor(t, b, "to have nothing pending", func() bool {
		return story.Running(b) && meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionPendingRestart) == nil
	})
	if got := c.Guest(t, b, "sh", "-c", "ls /root/file 2>/dev/null; echo $A"); got != "2\n" {
		t.Errorf("after a recreation: got %q, want a new disk and the new env", got)
	}
	if m := b.Status.Machine; m != nil && m.Restarts != nil && *m.Restarts != 0 {
		t.Errorf("restarts: got %d, want 0: the user requested both", *m.Restarts)
	}
}

// The original project's sidecar image listens on these ports, and on port 9099 of
// its own loopback. It was not written for this operator.
func TestForeignBundleImage(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	b := bottleOn(node1, ns, "foreign", "foreign-bundle")
	b.Spec.Bundle = &v1alpha1.Bundle{Image: ptr("example.test/foreign-bundle:1"), Ports: []int32{8888, 9418, 9100}}
	c.Apply(t, b)
	c.WaitRunning(t, b)
	for _, port := range []string{"8888", "9418", "9100"} {
		if r := c.TryExec(t, node1, "nc", "-z", "-w", "2", b.Status.Network.BundleIP, port); r.Code != 0 {
			t.Errorf("port %s of the foreign bundle: got no answer (%s)", port, r.Stderr)
		}
	}
	if r := c.TryExec(t, node1, "nc", "-z", "-w", "2", b.Status.Network.BundleIP, "9099"); r.Code == 0 {
		t.Errorf("port 9099, on the bundle's own loopback, answered from outside")
	}

	refused := bottleOn(node1, ns, "refused", "refused")
	refused.Spec.Bundle = &v1alpha1.Bundle{Image: ptr("other.test/not-allowed:1")}
	silent := bottleOn(node1, ns, "silent", "silent")
	silent.Spec.Bundle = &v1alpha1.Bundle{Image: ptr("example.test/foreign-bundle:1"), Ports: []int32{8888, 9999}}
	missing := bottleOn(node1, ns, "missing", "missing")
	missing.Spec.Bundle = &v1alpha1.Bundle{Image: ptr("example.test/foreign-bundle:absent")}
	c.Apply(t, refused, silent, missing)
	c.WaitReason(t, refused, v1alpha1.ConditionScheduled, v1alpha1.ReasonBundleImageNotAllowed)
	c.WaitReason(t, missing, v1alpha1.ConditionBundleReady, v1alpha1.ReasonBundleImageMissing)
	cond := c.WaitReason(t, silent, v1alpha1.ConditionBundleReady, v1alpha1.ReasonBundleNotAnswering)
	if !strings.Contains(cond.Message, "9999") {
		t.Errorf("message: got %q, want the silent port named", cond.Message)
	}
}

func TestUnavailableImages(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	reference, absent := bottleOn(node1, ns, "reference", "reference"), bottleOn(node1, ns, "absent", "absent")
	reference.Spec.Image = ptr("registry.example.com/agent:1")
	absent.Spec.Image = ptr("file:absent.tar")
	c.Apply(t, reference, absent)
	cond := c.WaitReason(t, reference, v1alpha1.ConditionMachineReady, v1alpha1.ReasonImagePullBackOff)
	if !strings.Contains(cond.Message, "registry.example.com") {
		t.Errorf("message: got %q, want the registry named", cond.Message)
	}
	c.WaitReason(t, absent, v1alpha1.ConditionMachineReady, v1alpha1.ReasonImageNotFound)
	c.Exec(t, node1, "cp", "/var/lib/bottle-images/guest.tar", "/var/lib/bottle-images/absent.tar")
	t.Cleanup(func() { c.Exec(t, node1, "rm", "/var/lib/bottle-images/absent.tar") })
	c.WaitRunning(t, absent)
}

// A Bottle is deleted along with its namespace.
func TestNamespaceDeletionDeletesBottles(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	b := bottleOn(node1, ns, "ends", "ends")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	if err := c.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, "the Bottle to be gone with its namespace", func() (string, bool) {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(b), b)
		return fmt.Sprintf("%v%s", err, story.Conditions(b)), apierrors.IsNotFound(err)
	})
	wantNothingLeft(t, c, node1, b)
}
