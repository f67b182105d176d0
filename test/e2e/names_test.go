// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/test/story"
)

// collide returns two slugs with the same first choice of a subnet.
func collide(t *testing.T) (string, string) {
	t.Helper()
	seen := map[netip.Prefix]string{}
	for i := range 1000 {
		slug := fmt.Sprintf("collide-%d", i)
		first := subnet.Default().FirstChoice(slug)
		if other, ok := seen[first]; ok {
			return other, slug
		}
		seen[first] = slug
	}
	t.Fatal("no two of 1000 slugs collide among 254 candidates")
	return "", ""
}

func wantDistinct(t *testing.T, bottles ...*v1alpha1.Bottle) {
	t.Helper()
	seen := map[string]string{}
	for _, b := range bottles {
		if other, ok := seen[b.Status.Network.Subnet]; ok {
			t.Errorf("subnet of %s and %s: got %s for both, want distinct ones", b.Name, other, b.Status.Network.Subnet)
		}
		seen[b.Status.Network.Subnet] = b.Name
	}
}

func TestOneSlugInTwoNamespaces(t *testing.T) {
	t.Parallel()
	c := connect(t)
	a, b := bottleOn(node1, c.Namespace(t), "same", "same"), bottleOn(node1, c.Namespace(t), "same", "same")
	c.Apply(t, a, b)
	c.WaitRunning(t, a, b)
	wantDistinct(t, a, b)
}

func TestCollidingSlugs(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	slugA, slugB := collide(t)
	a, b := bottleOn(node1, ns, "a", slugA), bottleOn(node1, ns, "b", slugB)
	c.Apply(t, a, b)
	c.WaitRunning(t, a, b)
	wantDistinct(t, a, b)
}

func TestFirstChoiceUsedByForeignNetworkIsAvoided(t *testing.T) {
	c := connect(t)
	first := subnet.Default().FirstChoice("around-network")
	c.Exec(t, node1, "docker", "network", "create", "--subnet", first.String(), "foreign-net")
	t.Cleanup(func() { c.Exec(t, node1, "docker", "network", "rm", "foreign-net") })
	b := bottleOn(node1, c.Namespace(t), "around", "around-network")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	if b.Status.Network.Subnet == first.String() {
		t.Errorf("subnet: got %s, want another, because a Docker network uses it", first)
	}
}

func TestFirstChoiceCoveredByHostRouteIsAvoided(t *testing.T) {
	c := connect(t)
	first := subnet.Default().FirstChoice("around-route")
	c.Exec(t, node1, "ip", "route", "add", "blackhole", first.String())
	t.Cleanup(func() { c.Exec(t, node1, "ip", "route", "del", "blackhole", first.String()) })
	b := bottleOn(node1, c.Namespace(t), "around", "around-route")
	c.Apply(t, b)
	c.WaitRunning(t, b)
	if b.Status.Network.Subnet == first.String() {
		t.Errorf("subnet: got %s, want another, because a route of the node covers it", first)
	}
}

// Objects that have a Bottle's name but belong to someone else are reported and left
// alone. The Bottle recovers once they are gone.
func TestForeignObjectsWithOurName(t *testing.T) {
	t.Parallel()
	c := connect(t)
	ns := c.Namespace(t)
	tests := map[string]struct{ condition, reason string }{
		"network":   {v1alpha1.ConditionNetworkReady, v1alpha1.ReasonNetworkConflict},
		"container": {v1alpha1.ConditionBundleReady, v1alpha1.ReasonBundleConflict},
	}
	for kind, tt := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := bottleOn(node1, ns, kind, "foreign-"+kind)
			b.Spec.DesiredState = v1alpha1.DesiredStateStopped // nothing is created yet, but the UID is known
			c.Apply(t, b)
			id := story.ID(b)
			make, remove := []string{"docker", "network", "create", "--subnet", "10.99.0.0/24", id}, []string{"docker", "network", "rm"}
			if kind == "container" {
				make, remove = []string{"docker", "create", "--name", id, bundleImage(t, c), "--help"}, []string{"docker", "rm", "-f"}
			}
			// Remove it by Docker's ID, because the Bottle's own object has the same name
			// in the end.
			remove = append(remove, strings.TrimSpace(c.Exec(t, node1, make...)))
			t.Cleanup(func() { c.TryExec(t, node1, remove...) })
			c.Change(t, b, func() { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
			c.WaitReason(t, b, tt.condition, tt.reason)
			c.Exec(t, node1, remove...)
			c.WaitRunning(t, b)
		})
	}
}

func bundleImage(t *testing.T, c *story.Cluster) string {
	t.Helper()
	for line := range linesOf(c.Exec(t, node1, "docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "botbottle.dev/bundle")) {
		return line
	}
	t.Fatal("the node has no built-in bundle image")
	return ""
}
