// SPDX-License-Identifier: Apache-2.0

package e2e

import "testing"

func TestPlantedLeakIsDetected(t *testing.T) {
	c := connect(t)
	b := bottleOn(node1, c.Namespace(t), "leak", "leak")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.WantLeakDetected(t, b)
}
