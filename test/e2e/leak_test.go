// SPDX-License-Identifier: Apache-2.0

package e2e

import "testing"

func TestAPlantedLeakIsCaught(t *testing.T) {
	c := connect(t)
	b := on(node1, c.Namespace(t), "leak", "leak")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.WantLeakDetected(t, b)
}
