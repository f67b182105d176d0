// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// A Bottle cannot make the agent connect to the node itself: neither by the name
// of its image nor by a redirect of its registry. What it learns is the same
// whether a port there is open or not.
func TestAgentDoesNotConnectToTheNode(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	// The agent's health probes are at 127.0.0.1:8081, and nothing is at port 9.
	open, closed := "127.0.0.1:8081", "127.0.0.1:9"
	c.Exec(t, node1, "nc", "-z", "127.0.0.1", "8081")
	if c.TryExec(t, node1, "nc", "-z", "127.0.0.1", "9").Code == 0 {
		t.Fatalf("%s on the node: got an open port, want a closed one", closed)
	}
	own := strings.Split(strings.Fields(c.Exec(t, node1, "ip", "-4", "-br", "addr", "show", "dev", "world0"))[2], "/")[0]
	messages := map[string]bool{}
	for i, at := range []string{open, closed} {
		b := bottleOn(node1, ns, fmt.Sprint("direct-", i), fmt.Sprint("direct-", i))
		b.Spec.Image = ptr(at + "/x:1")
		c.Apply(t, b)
		cond := c.WaitReason(t, b, v1alpha1.ConditionMachineReady, v1alpha1.ReasonImagePullBackOff)
		messages[strings.ReplaceAll(cond.Message, at, "IT")] = true
		if !strings.Contains(cond.Message, "its address 127.0.0.1 may not be used: it is loopback") {
			t.Errorf("%s: got message %q, want the address refused", at, cond.Message)
		}
	}
	if len(messages) != 1 {
		t.Errorf("got messages %v, want the same for an open and a closed port", messages)
	}
	for i, to := range []string{own, "169.254.169.254", "localhost"} {
		repository := fmt.Sprintf("%s/redirects-%d", ns, i)
		c.PushGuest(t, node1, repository+":1")
		repair := c.BreakRegistry(t, `{"path": "/`+repository+`/", "redirect": "https://`+to+`:8081/healthz?StrangeWord"}`)
		b := fromRegistry(ns, fmt.Sprint("redirects-", i), repository+":1")
		c.Apply(t, b)
		cond := c.WaitReason(t, b, v1alpha1.ConditionMachineReady, v1alpha1.ReasonImagePullBackOff)
		if !strings.Contains(cond.Message, "sends the agent to ") || !strings.Contains(cond.Message, "whose address") || !strings.Contains(cond.Message, "may not be used") || strings.Contains(cond.Message, "StrangeWord") {
			t.Errorf("redirect to %s: got message %q, want it refused", to, cond.Message)
		}
		repair()
		c.DeleteAndWait(t, b)
	}
	events, _ := c.Kubectl(nil, "-n", ns, "get", "events", "-o", "json")
	for place, text := range map[string]string{"events": events, "agent's log": c.AgentLog(t, node1)} {
		if strings.Contains(text, "StrangeWord") {
			t.Errorf("%s: contains the redirect's words", place)
		}
	}
}
