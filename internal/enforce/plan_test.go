// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

// testPods are the addresses of the Pods of those Bottles whose bundle is in one, by UID.
// Those that are nil cannot be found out.
type testPods map[string][]netip.Addr

func (p testPods) InPod(uid string) bool { _, ok := p[uid]; return ok }

func (p testPods) Addresses(_ context.Context, owner host.Owner) ([]netip.Addr, error) {
	if p[owner.UID] == nil {
		return nil, errors.New("the container runtime does not answer")
	}
	return slices.Clone(p[owner.UID]), nil
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// targets returns what a proof of the wall's Bottle tries, by kind. The neighbours have
// walls on the same node.
func targets(t *testing.T, subject host.WallSpec, o enforce.Options, neighbours ...host.WallSpec) map[probe.Kind][]string {
	t.Helper()
	f := newFixture(t)
	f.change = func(all *enforce.Options) {
		all.Canaries, all.Pods, all.Services, all.ProofTargets = o.Canaries, o.Pods, o.Services, o.ProofTargets
	}
	f.restart()
	for _, spec := range append(neighbours, subject) {
		folder, err := f.dir.Folder(spec.Owner.UID)
		if err == nil {
			err = folder.Ensure(spec.Owner)
		}
		if err == nil {
			_, err = f.enforcer.EnsureWall(t.Context(), spec, requestFor("1"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	plan, err := f.enforcer.Plan(t.Context(), enforce.Subject{Spec: subject})
	if err != nil {
		t.Fatal(err)
	}
	out := map[probe.Kind][]string{}
	for _, target := range slices.Concat(plan.Reach, plan.Avoid) {
		at := netip.AddrPortFrom(target.Addr, target.Port).String()
		if target.Proto == probe.ProtoTCP && !slices.Contains(out[target.Kind], at) {
			out[target.Kind] = append(out[target.Kind], at)
		}
	}
	return out
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func ownerNamed(name string) host.Owner {
	return host.Owner{UID: name + "-0000-4000-8000-000000000000", Namespace: "default", Name: name, Slug: name, Cluster: "c", Node: "n"}
}

var (
	docked = ownerNamed("dddddddd") // its bundle is a container of docker
	podded = ownerNamed("eeeeeeee") // its bundle is in a Pod
)

func TestPlanOfABottleOnDocker(t *testing.T) {
	canaries := &hosttest.Canaries{}
	canaries.SetAddresses(addrs("10.0.0.5", "192.168.44.1", "192.168.44.2", "192.168.50.1", "192.168.60.1")...)
	subject := spec()
	subject.Ports = []int32{8888, 22}
	got := targets(t, subject, enforce.Options{
		Canaries: canaries, Pods: testPods{podded.UID: addrs("10.40.0.9", "10.40.0.1")},
		ProofTargets: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:443")},
	}, specOf(docked, "50"), specOf(podded, "60"))
	want(t, "ports of its bundle", got[probe.KindBundlePort], "192.168.44.2:8888", "192.168.44.2:22")
	want(t, "other ports", got[probe.KindOtherPort], "192.168.44.2:9099", "192.168.44.2:80", "192.168.44.2:443")
	want(t, "its gateway", got[probe.KindGateway], "192.168.44.1:4711")
	// The gateway of a Bottle in a Pod is not on the node, so this is the node's own address.
	want(t, "addresses of the node", got[probe.KindNode], "10.0.0.5:4711", "192.168.60.1:4711")
	want(t, "its Pod", got[probe.KindPod])
	want(t, "services", got[probe.KindService])
	want(t, "public addresses", got[probe.KindPublic], "203.0.113.10:443")
	neighbours := got[probe.KindNeighbour]
	slices.Sort(neighbours)
	want(t, "neighbours", neighbours, "10.40.0.9:8888", "192.168.50.2:8888")
}

func TestPlanOfABottleInAPod(t *testing.T) {
	o := enforce.Options{
		Canaries: &hosttest.Canaries{}, Services: []netip.AddrPort{netip.MustParseAddrPort("10.96.0.1:443")},
		Pods: testPods{
			owner().UID: addrs("192.168.44.1", "127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "fe80::1%eth0", "10.40.0.8", "10.40.0.1"),
			podded.UID:  addrs("10.40.0.9", "10.40.0.1"),
		},
	}
	got := targets(t, spec(), o, specOf(podded, "60"))
	want(t, "its Pod and the Pod's gateway", got[probe.KindPod], "10.40.0.8:8888", "10.40.0.1:8888")
	want(t, "services", got[probe.KindService], "10.96.0.1:443")
	want(t, "neighbours", got[probe.KindNeighbour], "10.40.0.9:8888")
}

// TestPlanWithUnknownAddresses checks that a proof does without the addresses of a Pod that
// cannot be found out.
func TestPlanWithUnknownAddresses(t *testing.T) {
	got := targets(t, spec(), enforce.Options{Canaries: &hosttest.Canaries{}, Pods: testPods{owner().UID: nil, podded.UID: nil}}, specOf(podded, "60"))
	want(t, "its Pod", got[probe.KindPod])
	want(t, "neighbours", got[probe.KindNeighbour])
	want(t, "addresses of the node", got[probe.KindNode], "10.0.0.5:4711")
}

// TestNeighboursThatCannotBeTried checks that a proof leaves out what leads to its own bundle,
// or to nothing.
func TestNeighboursThatCannotBeTried(t *testing.T) {
	same := specOf(docked, "44") // in the network that the subject has inside its Pod
	same.BundleIP = netip.MustParseAddr("192.168.44.20")
	silent := specOf(docked, "50")
	silent.Ports = nil
	for what, neighbour := range map[string]host.WallSpec{"in the same network": same, "without ports": silent} {
		got := targets(t, spec(), enforce.Options{Canaries: &hosttest.Canaries{}, Pods: testPods{owner().UID: addrs("10.40.0.8")}}, neighbour)
		want(t, what, got[probe.KindNeighbour])
	}
}

// TestNoPlanWithoutTheNodesAddresses checks that a proof does not leave out the node.
func TestNoPlanWithoutTheNodesAddresses(t *testing.T) {
	f, canaries := newFixture(t), &hosttest.Canaries{}
	f.change = func(o *enforce.Options) { o.Canaries = canaries }
	f.restart()
	broken := errors.New("no netlink today")
	canaries.Break(broken)
	if _, err := f.enforcer.Plan(t.Context(), f.subject()); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}
