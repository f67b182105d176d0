// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

// testArtifact checks that the walls of a machine are proven as usual if the machine
// starts from an artifact that requests unrestricted network access.
func testArtifact(t *testing.T, s *site) {
	ns := s.Namespace(t)
	packed := s.PackGuest(t)
	s.PutLocal(t, node, ns+".smolmachine", packed)
	sum := story.SHA256(packed)
	b := builders.MakeBottle("packed").Namespace(ns).Pin(node).ArtifactPath("file:"+ns+".smolmachine").Env("GREETING", "from the Bottle").CPUs(1).Obj()
	b.Spec.Artifact.SHA256 = &sum
	s.Apply(t, b)
	if strings.Contains(s.version, " 0.8.0") { // stands for every release before 1.7.7
		cond := s.WaitReason(t, b, v1alpha1.ConditionMachineReady, v1alpha1.ReasonUnsupportedBySmolvm)
		if !strings.Contains(cond.Message, "another artifact") || !strings.Contains(cond.Message, "1.7.7") {
			t.Errorf("refused: got %q, want the danger and the alternative", cond.Message)
		}
		return
	}
	s.WaitRunning(t, b)
	if got := strings.TrimSpace(s.Guest(t, b, "sh", "-c", `echo "$GREETING"`)); got != "from the Bottle" {
		t.Errorf("GREETING: got %q, want the Bottle's value, which takes precedence over the artifact's", got)
	}
	got := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEgressEnforced)
	reason, text := v1alpha1.ReasonBothWalls, "smolvm's own hold"
	if !s.real { // a stand-in persists the policy and enforces nothing
		reason, text = v1alpha1.ReasonHostWall, "smolvm lists the policy but"
	}
	if got.Status != metav1.ConditionTrue || got.Reason != reason || !strings.Contains(got.Message, text) {
		t.Errorf("EgressEnforced by %s: got %s %s %q, want True %s with %q", s.version, got.Status, got.Reason, got.Message, reason, text)
	}
	// Its guest must not reach the pretend world either.
	for _, target := range []string{"203.0.113.10", "10.77.0.1"} {
		r := s.TryExec(t, node, "smolvm", "machine", "exec", "--name", story.ID(b), "--", "nc", "-w", "2", target, "80")
		if r.Code == 0 {
			t.Errorf("%s:80 from the machine: got a connection, want none", target)
		}
	}
}
