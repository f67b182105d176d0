// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

// fromArtifact returns a Bottle on node-1 that starts from an artifact.
func fromArtifact(ns, name string, artifact v1alpha1.Artifact) *v1alpha1.Bottle {
	b := builders.MakeBottle(name).Namespace(ns).Pin(node1).Env("GREETING", "from the Bottle").Obj()
	b.Spec.Artifact = &artifact
	return b
}

func TestArtifacts(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	packed := c.PackGuest(t)
	file, reference := "file:"+ns+".smolmachine", story.RegistryHost+"/"+ns+"/packed:1"
	c.PutLocal(t, node1, ns+".smolmachine", packed)
	c.PushArtifact(t, node1, ns+"/packed:1", packed)
	sum, wrong := story.SHA256(packed), strings.Repeat("0", 64)

	byPath := fromArtifact(ns, "by-path", v1alpha1.Artifact{Path: &file, SHA256: &sum})
	byReference := fromArtifact(ns, "by-reference", v1alpha1.Artifact{Reference: &reference, SHA256: &sum})
	other := fromArtifact(ns, "wrong-digest", v1alpha1.Artifact{Reference: &reference, SHA256: &wrong})
	c.Apply(t, byPath, byReference, other)
	c.WaitRunning(t, byPath, byReference)
	for _, b := range []*v1alpha1.Bottle{byPath, byReference} {
		if got := b.Status.Image; got == nil || got.Digest == nil || *got.Digest != "sha256:"+sum {
			t.Errorf("%s: got image %+v, want the digest sha256:%s", b.Name, got, sum)
		}
		if got := strings.TrimSpace(c.Guest(t, b, "sh", "-c", `echo "$GREETING"`)); got != "from the Bottle" {
			t.Errorf("%s: got GREETING=%q in the guest, want the Bottle's", b.Name, got)
		}
		wantOnlyBundle(t, c, b)
	}
	cond := c.WaitReason(t, other, v1alpha1.ConditionMachineReady, v1alpha1.ReasonImagePullBackOff)
	for _, want := range []string{sum, wrong, "spec.artifact.sha256"} {
		if !strings.Contains(cond.Message, want) {
			t.Errorf("wrong digest: got %q, want %q in it", cond.Message, want)
		}
	}
	fetched := story.BlobRequests(c.Requests(t, node1, ns+"/packed"))
	if len(fetched) > 1 {
		t.Errorf("blobs: got %d requested, want the artifact at most once: %v", len(fetched), fetched)
	}
	if r := c.TryExec(t, node1, "smolvm", "machine", "ls", "--json"); strings.Contains(r.Stdout, story.ID(other)) {
		t.Error("wrong digest: got a machine, want none")
	}
}

// wantOnlyBundle checks that the policy that smolvm persisted for b's machine allows
// only the bundle's address.
func wantOnlyBundle(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) {
	t.Helper()
	var machines []struct {
		Name  string   `json:"name"`
		CIDRs []string `json:"allowed_cidrs"`
	}
	if err := json.Unmarshal([]byte(c.Exec(t, node1, "smolvm", "machine", "ls", "--json")), &machines); err != nil {
		t.Fatal(err)
	}
	for _, m := range machines {
		if m.Name == story.ID(b) {
			if want := []string{b.Status.Network.BundleIP + "/32"}; !slices.Equal(m.CIDRs, want) {
				t.Errorf("%s: got the policy %v, want %v", b.Name, m.CIDRs, want)
			}
			return
		}
	}
	t.Errorf("%s: smolvm does not list its machine", b.Name)
}

// Every release of smolvm drops a Secret's value when it starts from an artifact.
// The operator therefore refuses the combination. It neither loses the value nor
// puts it where others on the node could read it.
func TestArtifactWithSecret(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	c.PutLocal(t, node1, ns+".smolmachine", c.PackGuest(t))
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "token", Namespace: ns}, StringData: map[string]string{"token": "pl4nted-" + ns}}
	if err := c.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	file := "file:" + ns + ".smolmachine"
	b := fromArtifact(ns, "with-a-secret", v1alpha1.Artifact{Path: &file})
	b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: "TOKEN", ValueFrom: &v1alpha1.EnvVarSource{SecretKeyRef: &v1alpha1.KeySelector{Name: "token", Key: "token"}}})
	c.Apply(t, b)
	cond := c.WaitReason(t, b, v1alpha1.ConditionStalled, v1alpha1.ReasonUnsupportedBySmolvm)
	if !strings.Contains(cond.Message, "TOKEN") || !strings.Contains(cond.Message, "spec.image") {
		t.Errorf("message: got %q, want the variable and the alternative", cond.Message)
	}
	c.Change(t, b, func() { b.Spec.Env = b.Spec.Env[:1] })
	c.WaitRunning(t, b)
	c.WantNotExposed(t, b, "pl4nted-"+ns)
}
