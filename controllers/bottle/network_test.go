// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"net/netip"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/subnet"
)

var (
	firstChoice  = subnet.Default().FirstChoice("demo")
	secondChoice = next(firstChoice)
	demoOwner    = host.Owner{UID: testUID, Namespace: "default", Name: "demo", Slug: "demo", Cluster: testCluster, Node: testNode}
	otherOwner   = host.Owner{UID: "99999999-0000-4000-8000-000000000000", Namespace: "x", Name: "other", Slug: "other", Cluster: testCluster, Node: testNode}
)

// next returns the candidate after p.
func next(p netip.Prefix) netip.Prefix {
	triple, err := subnet.Default().Pick("demo", []netip.Prefix{p}, nil)
	if err != nil {
		panic(err)
	}
	return triple.Subnet
}

func TestNetwork(t *testing.T) {
	small, err := subnet.Parse("192.168.8.0/24", 24, nil)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		before     func(w *world)
		wantCond   string
		wantSubnet string // of our docker network; "" for none
	}{
		"the slug's first choice": {nil, "True/Ready", firstChoice.String()},
		"another docker network has it": {func(w *world) {
			w.networks.PutAs("somebody", host.Network{Subnet: firstChoice})
		}, "True/Ready", secondChoice.String()},
		"a route of the node overlaps it": {func(w *world) {
			w.networks.Occupy(netip.PrefixFrom(firstChoice.Addr(), 26))
		}, "True/Ready", secondChoice.String()},
		"the status records a free subnet": {func(w *world) {
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				b.Status.Network = &v1alpha1.NetworkStatus{Subnet: "192.168.200.0/24", Gateway: "192.168.200.1", BundleIP: "192.168.200.2"}
			})
		}, "True/Ready", "192.168.200.0/24"},
		"the status records a taken subnet": {func(w *world) {
			w.networks.Occupy(netip.MustParsePrefix("192.168.200.0/24"))
			w.update(demoKey, func(b *v1alpha1.Bottle) {
				b.Status.Network = &v1alpha1.NetworkStatus{Subnet: "192.168.200.0/24", Gateway: "192.168.200.1", BundleIP: "192.168.200.2"}
			})
		}, "True/Ready", firstChoice.String()},
		"the docker network overrides the status": {func(w *world) {
			w.networks.Put(host.Network{Owner: demoOwner, Subnet: netip.MustParsePrefix("192.168.77.0/24"), Gateway: netip.MustParseAddr("192.168.77.1")})
		}, "True/Ready", "192.168.77.0/24"},
		"docker reports an overlap that the node's tables do not show": {func(w *world) {
			w.faults.Fail("EnsureNetwork", 0, 1, host.ErrOverlap)
		}, "True/Ready", secondChoice.String()},
		"a foreign network has our name": {func(w *world) {
			w.networks.PutAs(testID, host.Network{Owner: otherOwner, Subnet: firstChoice})
		}, "False/NetworkConflict", ""},
		"docker does not remove the old network": {func(w *world) {
			w.faults.Fail("EnsureNetwork", hosttest.Before, hosttest.Always, host.ErrStuck)
		}, "False/DockerStuck", ""},
		"no subnet is left": {func(w *world) {
			w.pool = small
			w.networks.Occupy(netip.MustParsePrefix("192.168.8.0/24"))
			w.restartAgent()
		}, "False/SubnetsExhausted", ""},
		"docker is down": {func(w *world) {
			w.networks.Down()
			w.facts.Break("docker", "docker does not answer: systemctl start docker")
		}, "False/DockerUnavailable", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, demo().Obj())
			if tt.before != nil {
				tt.before(w)
			}
			res, err := w.pass(demoKey)
			if err != nil {
				t.Fatal(err)
			}
			w.wantCond(demoKey, v1alpha1.ConditionNetworkReady, tt.wantCond)
			got := ""
			if n, ok := w.networks.All()[testID]; ok && n.Owner.Same(demoOwner) {
				got = n.Subnet.String()
			}
			if got != tt.wantSubnet {
				t.Errorf("subnet: got %q, want %q", got, tt.wantSubnet)
			}
			if tt.wantSubnet == "" {
				w.wantCond(demoKey, v1alpha1.ConditionSmolfileReady, "Unknown/Blocked")
				w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "Unknown/Blocked")
				w.wantCond(demoKey, v1alpha1.ConditionReconciling, "True/Progressing")
				if res.RequeueAfter <= 0 {
					t.Errorf("next pass: got none, want one soon")
				}
				return
			}
			if got := w.bottle(demoKey).Status.Network; got == nil || got.Subnet != tt.wantSubnet {
				t.Errorf("status.network: got %+v, want %s", got, tt.wantSubnet)
			}
		})
	}
}

func TestABottleRunsOnceDockerAnswersAgain(t *testing.T) {
	w := newWorld(t, demo().Obj())
	w.networks.Down()
	w.facts.Break("docker", "docker does not answer")
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionReady, "False/DockerUnavailable")
	if got, want := w.message(demoKey, v1alpha1.ConditionNetworkReady), "docker does not answer"; got != want {
		t.Errorf("message: got %q, want the fact's %q", got, want)
	}
	w.networks.Up()
	w.facts.Break("docker", "")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionMachineReady, "True/MachineRunning")
}

func TestTwoBottlesWithTheSameSlug(t *testing.T) {
	other := placed(demo().UID(otherOwner.UID)).Namespace("elsewhere").Obj()
	w := newWorld(t, demo().Obj(), other)
	otherKey := key(other)
	w.settle(demoKey)
	w.settle(otherKey)
	a, b := w.bottle(demoKey).Status, w.bottle(otherKey).Status
	if a.Network.Subnet == b.Network.Subnet || a.Machine.Name == b.Machine.Name {
		t.Errorf("subnets: got %s and %s, machines %s and %s, want distinct ones",
			a.Network.Subnet, b.Network.Subnet, a.Machine.Name, b.Machine.Name)
	}
}
