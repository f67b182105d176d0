// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// When a user removes an egress rule or stops the machine, the change applies
// immediately, even while dockerd hangs on the node and the Bottle's passes wait for
// it.
func TestNarrowingDoesNotWaitForDocker(t *testing.T) {
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "narrow", "narrow")
	b.Spec.Egress = &v1alpha1.Egress{Allow: []v1alpha1.EgressRule{"kept.test", "removed.test"}}
	c.Apply(t, b)
	c.WaitRunning(t, b)
	rules := func() string {
		return c.Exec(t, node1, "cat", "/var/lib/bottle/bottles/"+string(b.UID)+"/bundle/egress.json")
	}
	if got := rules(); !strings.Contains(got, "removed.test") {
		t.Fatalf("rules: got %s, want both to apply", got)
	}
	thaw := c.Freeze(t, node1, "dockerd")
	c.Change(t, b, func() { b.Spec.Egress.Allow = []v1alpha1.EgressRule{"kept.test", "added.test"} })
	c.Eventually(t, "the removed rule not to apply any more, with dockerd hanging", func() (string, bool) {
		got := rules()
		return got, !strings.Contains(got, "removed.test") && strings.Contains(got, "kept.test")
	})
	c.Change(t, b, func() { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	c.Eventually(t, "the machine to be down, with dockerd hanging", func() (string, bool) {
		state := machineState(t, c, b)
		return state, state == "stopped"
	})
	thaw()
	c.WaitReason(t, b, v1alpha1.ConditionReady, v1alpha1.ReasonStopped)
}

// machineState returns the state of the Bottle's machine, as smolvm reports it.
func machineState(t *testing.T, c *story.Cluster, b *v1alpha1.Bottle) string {
	t.Helper()
	var list []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	}
	if err := json.Unmarshal([]byte(c.Exec(t, story.NodeOf(b), "smolvm", "machine", "ls", "--json")), &list); err != nil {
		return fmt.Sprint(err)
	}
	for _, m := range list {
		if m.Name == story.ID(b) {
			return m.State
		}
	}
	return "absent"
}
