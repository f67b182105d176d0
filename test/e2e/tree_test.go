// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"botbottle.dev/bottle-operator/test/imagetree"
)

// The guest sees the files that docker run of its image shows.
func TestImageTree(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	tree := imagetree.Images()[imagetree.Shared]
	c.PushImage(t, node1, ns+"/tree:1", c.GuestWithTree(t, tree))
	b := fromRegistry(ns, "tree", ns+"/tree:1")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.WantTree(t, b, tree)
}
