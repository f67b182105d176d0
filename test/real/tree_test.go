// SPDX-License-Identifier: Apache-2.0

package real

import (
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/imagetree"
	"botbottle.dev/bottle-operator/test/story"
)

// The guest sees the files that docker run of the image shows, except for what
// smolvm loses.
func TestImageTreeOnARealMicroVM(t *testing.T) {
	c := story.Connect(t, 12*time.Minute)
	ns := c.Namespace(t)
	tree := imagetree.Images()[imagetree.Shared]
	c.PushImage(t, node, ns+"/tree:1", c.GuestWithTree(t, tree))
	b := builders.MakeBottle("tree").Namespace(ns).Slug("tree").Obj()
	image := story.RegistryHost + "/" + ns + "/tree:1"
	b.Spec.Image = &image
	c.Apply(t, b)
	c.WaitRunning(t, b)
	c.WantTree(t, b, tree)
}
