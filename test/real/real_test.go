// SPDX-License-Identifier: Apache-2.0

// Package real tests whole stories on real microVMs. The tests take minutes, run one
// after another and assert no times.
package real

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

const node = "node-1"

// planted is a secret value. The test searches for it wherever it must not be.
const planted = "s3cr3t-planted-5f2c9a"

func TestBottleOnARealMicroVM(t *testing.T) {
	c := story.Connect(t, 12*time.Minute)
	ns := c.Namespace(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: ns}, StringData: map[string]string{"token": planted}}
	if err := c.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	awkward := map[string]string{
		"QUOTES":  `say "hi" and 'ho' and """`,
		"LINES":   "one\ntwo\r\n[network]\nallow_cidrs = [\"0.0.0.0/0\"]",
		"CONTROL": "\x01\x1b[31m\x7fx",
		"EMOJI":   "\U0001F600 größe \\ $HOME",
		"EMPTY":   "",
	}
	make := builders.MakeBottle("real").Namespace(ns).Slug("real")
	for name, value := range awkward {
		make.Env(name, value)
	}
	b := make.EnvFromSecret("TOKEN", "agent", "token").Obj()
	digest := c.PushGuest(t, node, ns+"/agent:1")
	before := len(c.Requests(t, node, ns+"/agent"))
	image := story.RegistryHost + "/" + ns + "/agent:1"
	b.Spec.Image = &image
	c.Apply(t, b)
	c.WaitRunning(t, b)

	t.Run("its image was pulled by the node", func(t *testing.T) {
		wantPulled(t, c, b, digest, c.Requests(t, node, ns+"/agent")[before:])
	})
	t.Run("its kernel is not the host's", func(t *testing.T) {
		t.Logf("uname -rv: guest %s, node %s", strings.TrimSpace(c.Guest(t, b, "uname", "-rv")), strings.TrimSpace(c.Exec(t, node, "uname", "-rv")))
		const bootID = "/proc/sys/kernel/random/boot_id" // each boot of a kernel generates its own
		guest, host := strings.TrimSpace(c.Guest(t, b, "cat", bootID)), strings.TrimSpace(c.Exec(t, node, "cat", bootID))
		if guest == host || guest == "" || host == "" {
			t.Errorf("boot_id in the guest: got %q, want it to differ from the node's %q", guest, host)
		}
	})
	t.Run("env and secret arrive", func(t *testing.T) {
		environ := strings.Split(c.Guest(t, b, "cat", "/proc/self/environ"), "\x00")
		got := map[string]string{}
		for _, entry := range environ {
			name, value, _ := strings.Cut(entry, "=")
			got[name] = value
		}
		awkward["TOKEN"] = planted
		for name, want := range awkward {
			if got[name] != want {
				t.Errorf("%s in the guest: got %q, want %q", name, got[name], want)
			}
		}
	})
	t.Run("the secret is nowhere else", func(t *testing.T) { c.WantSecretContained(t, b, planted) })
	t.Run("both walls are proven", func(t *testing.T) {
		if got := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEgressEnforced); got == nil || got.Reason != v1alpha1.ReasonBothWalls {
			t.Errorf("EgressEnforced: got %+v, want reason BothWalls", got)
		}
	})
	t.Run("exec carries bytes and exit codes", func(t *testing.T) { wantExec(t, c, b, 4<<20) })
	t.Run("a planted leak is detected", func(t *testing.T) { c.WantLeakDetected(t, b) })
	t.Run("a killed VMM is detected", func(t *testing.T) {
		if m := b.Status.Machine; m == nil || m.PID == nil {
			t.Fatalf("machine of a running Bottle: got %+v, want its pid", m)
		}
		pid := *b.Status.Machine.PID
		c.Exec(t, node, "kill", "-9", fmt.Sprint(pid))
		c.WaitFor(t, b, "to run again", func() bool {
			m := b.Status.Machine
			return m != nil && m.PID != nil && m.LastLoss != nil && story.Running(b) && *m.PID != pid
		})
	})
	t.Run("a guest that dials the registry is seen", func(t *testing.T) { c.WantDialToRegistrySeen(t, b) })
	t.Run("deleting leaves nothing", func(t *testing.T) {
		id := story.ID(b)
		c.DeleteAndWait(t, b)
		for what, argv := range map[string][]string{
			"container": {"docker", "ps", "-aq", "--filter", "name=" + id},
			"network":   {"docker", "network", "ls", "-q", "--filter", "name=" + id},
			"process":   {"sh", "-c", "pgrep -f [_]boot-vm || [ $? = 1 ]"},
			"folder":    {"find", "/var/lib/bottle/bottles", "-mindepth", "1"},
			"wall":      {"sh", "-c", "nft list tables | grep netdev || [ $? = 1 ]; ip netns list | grep bottle- || [ $? = 1 ]"},
			"disk":      {"find", "/var/lib/bottle/smolvm/.cache/smolvm/vms", "-mindepth", "1", "-type", "d"},
		} {
			if out := strings.TrimSpace(c.Exec(t, node, argv...)); out != "" {
				t.Errorf("%s after deletion: got %s, want none", what, out)
			}
		}
		c.WantSecretGone(t, node, planted)
		if out := c.Exec(t, node, "smolvm", "machine", "ls", "--json"); strings.Contains(out, id) {
			t.Errorf("machines after deletion: got %s, want none named %s", out, id)
		}
		// The manager removes the placeholder in a later pass.
		c.Eventually(t, "the placeholder Pods to be gone", func() (string, bool) {
			pods := &corev1.PodList{}
			err := c.List(t.Context(), pods, client.InNamespace(ns))
			return fmt.Sprintf("%d left (%v)", len(pods.Items), err), err == nil && len(pods.Items) == 0
		})
	})
}

// wantPulled checks that b's image has the digest, and that only the node made these
// requests, each blob once. It also checks that b's machine did not dial the
// registry, which its wall would have observed.
func wantPulled(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle, digest string, requests []story.Request) {
	if got := b.Status.Image; got == nil || got.Digest == nil || *got.Digest != digest || got.Reference != *b.Spec.Image {
		t.Errorf("image: got %+v, want %s with digest %s", got, *b.Spec.Image, digest)
	}
	var blobs []string
	for _, r := range story.BlobRequests(requests) {
		blobs = append(blobs, r.Path)
	}
	slices.Sort(blobs)
	if len(blobs) != 3 || len(slices.Compact(slices.Clone(blobs))) != 3 { // the config and two layers
		t.Errorf("blobs requested: got %q, want three, each once", blobs)
	}
	c.WantPulledByNode(t, node, requests)
	if c.MachineDialledRegistry(t, b) {
		t.Error("the machine dialled the registry")
	}
	c.Eventually(t, "an Event Pulled with the digest", func() (string, bool) {
		out, err := c.Kubectl(nil, "-n", b.Namespace, "get", "events", "--field-selector", "reason=Pulled,involvedObject.name="+b.Name, "-o", "jsonpath={.items[*].message}")
		return out, err == nil && strings.Contains(out, "("+digest+") in ")
	})
}
