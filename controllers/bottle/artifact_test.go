// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/workload"
	"botbottle.dev/bottle-operator/test/builders"
)

const packed = "file:a.smolmachine"

// withArtifact returns a world with the artifact on the node.
func withArtifact(t *testing.T, b *builders.Bottle) *world {
	t.Helper()
	w := newWorld(t, b.Obj())
	w.images.MarkArtifact(packed)
	w.images.PutLocal(packed, "a packed machine")
	return w
}

func TestArtifact(t *testing.T) {
	sum := strings.TrimPrefix(hosttest.ImageDigest("a packed machine"), "sha256:")
	other := strings.Repeat("0", 64)
	before := hosttest.ReferenceVersion
	before.Version, before.ArtifactPolicy = "1.7.7", false
	old := before
	old.Version, old.Artifacts = "0.9.0", false
	summed := func(sum string) *builders.Bottle {
		b := demo().ArtifactPath(packed)
		b.Spec.Artifact.SHA256 = &sum
		return b
	}
	tests := map[string]struct {
		bottle        *builders.Bottle
		version       host.SmolvmVersion
		requirePolicy bool
		want          string
		wantStalled   string
		wantText      string // in MachineReady's message
		wantEgress    string
	}{
		"plain":                            {demo().ArtifactPath(packed), hosttest.ReferenceVersion, true, "True/MachineRunning", "", "", "True/BothWalls"},
		"with its SHA-256 sum":             {summed(sum), hosttest.ReferenceVersion, false, "True/MachineRunning", "", "", "True/BothWalls"},
		"with a wrong sum":                 {summed(other), hosttest.ReferenceVersion, false, "False/ImagePullBackOff", "", other + " is asked for", "Unknown/Blocked"},
		"that does not exist":              {demo().ArtifactPath("file:b.smolmachine"), hosttest.ReferenceVersion, false, "False/ImageNotFound", "", "spec.artifact", "Unknown/Blocked"},
		"with a Secret":                    {demo().ArtifactPath(packed).EnvFromSecret("TOKEN", "s", "k"), hosttest.ReferenceVersion, false, "False/UnsupportedBySmolvm", "True/UnsupportedBySmolvm", "TOKEN", "Unknown/Blocked"},
		"smolvm mixes artifacts up":        {demo().ArtifactPath(packed), old, false, "False/UnsupportedBySmolvm", "", "1.7.7 or newer", "Unknown/Blocked"},
		"smolvm drops the policy":          {demo().ArtifactPath(packed), before, false, "True/MachineRunning", "", "", "True/HostWall"},
		"smolvm drops the required policy": {demo().ArtifactPath(packed), before, true, "False/PolicyNotPersisted", "", "smolvm 1.7.7 drops the policy of a machine that is made from an artifact", "Unknown/Blocked"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := withArtifact(t, tt.bottle)
			w.requirePolicy = tt.requirePolicy
			w.guest.set(policed)
			w.machines.SetVersion(tt.version)
			w.refs.put("secrets", "s", "k", "hunter2")
			w.restartAgent()
			for range 5 { // within the first pause between pulls
				if _, err := w.pass(demoKey); err != nil {
					t.Fatal(err)
				}
				w.clock.Step(soon)
			}
			w.wantCond(demoKey, v1alpha1.ConditionMachineReady, tt.want)
			w.wantCond(demoKey, v1alpha1.ConditionStalled, tt.wantStalled)
			w.wantCond(demoKey, v1alpha1.ConditionEgressEnforced, tt.wantEgress)
			if got := w.message(demoKey, v1alpha1.ConditionMachineReady); !strings.Contains(got, tt.wantText) {
				t.Errorf("message: got %q, want %q in it", got, tt.wantText)
			}
			if !tt.version.ArtifactPolicy && tt.wantEgress == "True/HostWall" {
				if got := w.message(demoKey, v1alpha1.ConditionEgressEnforced); !strings.Contains(got, "made from an artifact") {
					t.Errorf("message: got %q, want it to say why smolvm's policy does not count", got)
				}
			}
			if _, _, made := w.machines.Get(testID); strings.HasPrefix(tt.want, "False/Unsupported") && made {
				t.Error("got a machine, want none")
			}
		})
	}
}

// With an artifact, flags replace the Smolfile.
func TestFlagsBesideAnArtifact(t *testing.T) {
	b := demo().ArtifactPath(packed).Env("A", "b").Env("TRAILING", "x ").Command("sh", "-c", "true")
	w := withArtifact(t, b)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	_, spec, _ := w.machines.Get(testID)
	if spec.Image != "" || spec.Smolfile != "" || !strings.HasSuffix(spec.Artifact, ".smolmachine") {
		t.Errorf("created from: got image %q, Smolfile %q, artifact %q, want only the artifact", spec.Image, spec.Smolfile, spec.Artifact)
	}
	bottle := w.bottle(demoKey)
	if want := netip.MustParsePrefix(bottle.Status.Network.BundleIP + "/32"); spec.AllowCIDR != want {
		t.Errorf("address: got %s, want %s", spec.AllowCIDR, want)
	}
	smolfile, err := os.ReadFile(bottle.Status.Smolfile.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range spec.Env {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.Contains(string(smolfile), name+"=") {
			t.Errorf("env %s: got it as a flag, but not in the Smolfile", name)
		}
	}
	for _, want := range []string{"A=b", "TRAILING=x "} {
		if !slices.Contains(spec.Env, want) {
			t.Errorf("env: got %q, want %q in it", spec.Env, want)
		}
	}
	if diff := cmp.Diff(workload.Command([]string{"sh", "-c", "true"}), spec.Command); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	if got := bottle.Status.Image; got == nil || got.Reference != packed || *got.Digest != hosttest.ImageDigest("a packed machine") {
		t.Errorf("status.image: got %+v, want the artifact", got)
	}
	used, _, err := w.usedImages()
	if err != nil || !used[hosttest.ImageDigest("a packed machine")] {
		t.Errorf("in use: got %v, %v, want the artifact", used, err)
	}
	// Another artifact requires a new machine.
	sum := strings.Repeat("0", 64)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Artifact.SHA256 = &sum })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
	if got := w.message(demoKey, v1alpha1.ConditionPendingRestart); !strings.Contains(got, "spec.artifact") {
		t.Errorf("message: got %q, want spec.artifact in it", got)
	}
}
