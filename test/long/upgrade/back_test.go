// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"fmt"
	"testing"

	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

// Managers and agents are upgraded, and then everything goes back to the earlier release.
// After each step, managers and agents make a Bottle Ready and delete it, of whatever
// releases they are, and the machine that ran before has not noticed.
func TestLongUpgradeAndBack(t *testing.T) {
	require.Long(t)
	c, old := startOld(t, beforeChart)
	ns := c.Namespace(t)
	kept := builders.MakeBottle("kept").Namespace(ns).Slug("kept").Command(story.Dialer...).Obj()
	c.Apply(t, kept)
	c.WaitRunning(t, kept)
	counter := c.StartCounter(t, kept, "")
	g := watch(t, c, kept)

	for i, step := range []struct {
		name string
		do   func()
	}{
		{"new managers, old agent", func() { replaceManagers(t, c, current()) }},
		{"new managers, new agent", func() { c.Run(t, "agent-start", node) }},
		{"old managers, new agent", func() { replaceManagers(t, c, old) }},
		{"old managers, old agent", func() { c.Run(t, "agent-start", node) }},
	} {
		step.do()
		b := builders.MakeBottle(fmt.Sprintf("step-%d", i)).Namespace(ns).Slug("step").Obj()
		c.Apply(t, b)
		c.WaitRunning(t, b, kept)
		c.DeleteAndWait(t, b)
		g.wantUntouched(t, step.name)
		if n, _ := counter.Read(t); n != 0 {
			t.Errorf("%s: got %d connections through the wall, want none", step.name, n)
		}
	}

	// The counter does count: without the wall, the guest gets through.
	resume := c.Freeze(t, node, "agent")
	story.Breaches[0].Break(t, c, kept)
	c.Eventually(t, "the guest to get through", func() (string, bool) {
		n, _ := counter.Read(t)
		return fmt.Sprint(n), n > 0
	})
	resume()
}
