// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// A guest may replace the prober with a program that reports the wanted results but
// tries nothing. The agent does not believe its report.
func TestLyingProberIsNotBelieved(t *testing.T) {
	c := connect(t)
	liar := filepath.Join(c.Dir, "liar")
	build := exec.Command("go", "build", "-o", liar, "./liar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the liar: %v\n%s", err, out)
	}
	flags := filepath.Join(c.Dir, "agent.flags")
	before, err := os.ReadFile(flags)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(content string) {
		t.Helper()
		if err := os.WriteFile(flags, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Run(t, "agent-stop", node2)
		c.Run(t, "agent-start", node2)
	}
	ns := c.Namespace(t)
	t.Cleanup(func() { restart(string(before)) })
	restart(strings.TrimSpace(string(before)) + " --guest-program " + liar)

	b := bottleOn(node2, ns, "liar", "liar")
	c.Apply(t, b)
	cond := c.WaitReason(t, b, v1alpha1.ConditionEgressEnforced, v1alpha1.ReasonProofNotObserved)
	for _, word := range []string{"9099", "gateway"} {
		if !strings.Contains(cond.Message, word) {
			t.Errorf("message: got %q, want %s named as a target that was not tried", cond.Message, word)
		}
	}
	if ready := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionReady); ready == nil || ready.Status != "False" {
		t.Errorf("Ready of a Bottle whose guest lies: got %+v, want False", ready)
	}
	restart(string(before))
	c.WaitRunning(t, b)
}
