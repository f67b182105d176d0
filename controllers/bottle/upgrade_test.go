// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/pending"
	"botbottle.dev/bottle-operator/test/builders"
)

// recordOfPreviousRelease is a machine.json from before sizes and artifacts were
// recorded field by field.
const recordOfPreviousRelease = `{
  "salt": "74241cecafc3f2b3f476c413683a36ba",
  "env": {
    "A": "82ae0099ba6f5f6f86acdfc9393f1234da4488781ae61ec2575cf44c24a02fa2",
    "BOTTLE_BUNDLE_IP": "e06f306481ab9f39e5a793ef20e3be18f627eed28d3bd2305125aecfba66363f",
    "HTTPS_PROXY": "942352efdde7412dd059c5424ba49d6d47b0612f862587fcf39af764732831fa",
    "HTTP_PROXY": "942352efdde7412dd059c5424ba49d6d47b0612f862587fcf39af764732831fa",
    "NO_PROXY": "88ec2bd9afa0fdde64e341ea857d8aaa2d16dc8c04b0c20ee71a34b8b1e7c365",
    "http_proxy": "942352efdde7412dd059c5424ba49d6d47b0612f862587fcf39af764732831fa",
    "https_proxy": "942352efdde7412dd059c5424ba49d6d47b0612f862587fcf39af764732831fa",
    "no_proxy": "88ec2bd9afa0fdde64e341ea857d8aaa2d16dc8c04b0c20ee71a34b8b1e7c365"
  },
  "reference": "file:guest.tar",
  "digest": "sha256:dd6b4719723519ae9c54f091f908135d0370506b1f8961196923edf75d760c8b",
  "command": [
    "sh",
    "-c",
    "sleep 1"
  ],
  "size": "cpus=2 memoryMiB=512 storageGiB=30 overlayGiB=0",
  "bundleIP": "192.168.109.2",
  "policy": "exact",
  "run": {
    "pid": 4001,
    "startTime": "2026-01-02T03:04:07Z"
  },
  "firstRun": "2026-01-02T03:04:07Z"
}
`

func ofPreviousRelease() *builders.Bottle {
	b := demo().Env("A", "b").Command("sh", "-c", "sleep 1")
	b.Spec.Machine = &v1alpha1.Machine{CPUs: new(int32(2)), Memory: new(resource.MustParse("512Mi")), Storage: new(resource.MustParse("30Gi"))}
	return b
}

// A new release of the agent must not request restarts.
func TestRecordsOfOtherReleases(t *testing.T) {
	replaced := func(old, new string) string { return strings.Replace(recordOfPreviousRelease, old, new, 1) }
	const size = `"size": "cpus=2 memoryMiB=512 storageGiB=30 overlayGiB=0",`
	tests := map[string]struct {
		record string
		change func(*v1alpha1.Bottle)
		want   string // the fields that differ
	}{
		"the previous release": {record: recordOfPreviousRelease},
		"the previous release, another size requested": {
			record: recordOfPreviousRelease,
			change: func(b *v1alpha1.Bottle) { b.Spec.Machine.Storage = ptr.To(resource.MustParse("31Gi")) },
			want:   "spec.machine",
		},
		"before sizes were recorded, none requested": {
			record: replaced(size, ""),
			change: func(b *v1alpha1.Bottle) { b.Spec.Machine = nil },
		},
		"before overlays had a size, none requested": {
			record: replaced(" overlayGiB=0", ""),
		},
		"before overlays had a size, one requested": {
			record: replaced(" overlayGiB=0", ""),
			change: func(b *v1alpha1.Bottle) { b.Spec.Machine.Overlay = ptr.To(resource.MustParse("5Gi")) },
			want:   "spec.machine",
		},
		"a later release, with unknown fields": {
			record: replaced(size, `"machine": {"cpus": 2, "memoryMiB": 512, "storageGiB": 30, "gpus": 1}, "colour": {"r": 1},`),
		},
		"before the operator set another variable, spec.env changed": {
			record: replaced(`"no_proxy": "88ec2bd9afa0fdde64e341ea857d8aaa2d16dc8c04b0c20ee71a34b8b1e7c365"`, `"B": "x"`),
			change: func(b *v1alpha1.Bottle) {
				b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: "B", Value: ptr.To("y")})
			},
			want: "spec.env",
		},
		"before NO_PROXY had another value, spec.env sets it": {
			record: recordOfPreviousRelease,
			change: func(b *v1alpha1.Bottle) {
				b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: "NO_PROXY", Value: ptr.To("*")})
			},
			want: "spec.env",
		},
		"spec.env set NO_PROXY and no longer does": {
			record: replaced(`"NO_PROXY": "88ec2bd9afa0fdde64e341ea857d8aaa2d16dc8c04b0c20ee71a34b8b1e7c365"`, `"NO_PROXY": "00ec2bd9afa0fdde64e341ea857d8aaa2d16dc8c04b0c20ee71a34b8b1e7c365"`),
			want:   "spec.env",
		},
		"before the operator set another variable": {
			record: replaced(`,
    "no_proxy": "88ec2bd9afa0fdde64e341ea857d8aaa2d16dc8c04b0c20ee71a34b8b1e7c365"`, ""),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, ofPreviousRelease().Obj())
			w.wantPendingAfterUpgrade(tt.record, tt.change, tt.want)
		})
	}
}

func TestArtifactRecordsOfThePreviousRelease(t *testing.T) {
	const old = `"artifact": "file:a.smolmachine sha256=",
  "size": "cpus=2 `
	record := strings.Replace(recordOfPreviousRelease, `"size": "cpus=2 `, old, 1)
	w := withArtifact(t, ofPreviousRelease().ArtifactPath(packed))
	w.wantPendingAfterUpgrade(record, nil, "")
	sum := strings.Repeat("0", 64)
	w.wantPendingAfterUpgrade(record, func(b *v1alpha1.Bottle) { b.Spec.Artifact.SHA256 = &sum }, "spec.artifact")
}

// wantPendingAfterUpgrade starts an agent that finds this record of the machine,
// and checks which fields it reports as pending.
func (w *world) wantPendingAfterUpgrade(record string, change func(*v1alpha1.Bottle), want string) {
	w.t.Helper()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
	folder, err := w.r.State.Folder(testUID)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder.Path(), "machine.json"), []byte(record), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.restartAgent()
	if change != nil {
		w.update(demoKey, change)
	}
	w.settle(demoKey)
	wantCond, wantMessage := "", ""
	if want != "" {
		wantCond, wantMessage = "True/SpecChanged", pending.Message([]string{want}, pending.ByRecreating)
	}
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, wantCond)
	if got := w.message(demoKey, v1alpha1.ConditionPendingRestart); got != wantMessage {
		w.t.Errorf("message: got %q, want %q", got, wantMessage)
	}
	// A record that the new agent has written gives the same result.
	w.restartAgent()
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, wantCond)
}
