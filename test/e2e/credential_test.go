// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

// A guest uses a credential in 200 requests of every kind, and has it nowhere.
func TestCredentialIsNowhereInTheGuest(t *testing.T) {
	t.Parallel()
	c := connect(t)
	l := c.ApplyLender(t, builders.MakeBottle("lender").Namespace(c.Namespace(t)).Pin(node1))
	l.MakeRequests(t, 200)
	l.WantCredentialNowhere(t)
	c.DeleteAndWait(t, l.Bottle)
	wantNothingLeft(t, c, node1, l.Bottle)
	l.WantCredentialGone(t, node1)
}

// Clients in a guest get a new credential without a new connection, and come back after
// the bundle or the agent was restarted. After a boot of the node they trust its new
// certificate authority.
func TestCredentialChangesAndRestarts(t *testing.T) {
	c := connect(t)
	l := c.ApplyLender(t, builders.MakeBottle("rotated").Namespace(c.Namespace(t)).Pin(node2))
	l.StartClients(t)
	l.WantRotation(t)
	before, after := l.WantClientsBack(t, "a restart of the agent", func() {
		c.Run(t, "agent-stop", node2)
		c.Run(t, "agent-start", node2)
	})
	if after != before {
		t.Errorf("connections of the stream after a restart of the agent: got %d, want still %d", after, before)
	}
	before, after = l.WantClientsBack(t, "the end of the bundle", func() {
		c.Exec(t, node2, "docker", "kill", story.ID(l.Bottle))
	})
	if after <= before {
		t.Errorf("connections of the stream after the end of the bundle: got %d, want more than %d", after, before)
	}
	l.WantRotation(t)
	l.WantNewAuthorityAfterBoot(t)
}
