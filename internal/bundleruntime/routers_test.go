// SPDX-License-Identifier: Apache-2.0

package bundleruntime_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/state"
)

func owner(uid string) host.Owner {
	return host.Owner{UID: uid + "-0000-4000-8000-000000000000", Namespace: "default", Name: uid, Slug: "demo", Cluster: "c", Node: "n"}
}

var (
	inDocker = owner("aaaaaaaa")
	inPod    = owner("bbbbbbbb")
	unknown  = owner("cccccccc")
)

// node is a node with one Bottle in each runtime, whose kinds are recorded in its state
// directory.
type node struct {
	dir         *state.Dir
	set         *bundleruntime.Set
	docker, pod *hosttest.Faults
	networks    [2]*hosttest.Networks
	walls       [2]*hosttest.Walls
}

func newNode(t *testing.T, kind bundleruntime.Kind) *node {
	t.Helper()
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for o, runtime := range map[host.Owner]string{inDocker: "docker", inPod: "pod"} {
		f, err := dir.Folder(o.UID)
		if err == nil {
			err = errors.Join(f.Ensure(o), f.WriteRuntime(runtime))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	choices, err := bundleruntime.NewChoices(dir, func(context.Context) (bundleruntime.Kind, error) { return kind, nil })
	if err != nil {
		t.Fatal(err)
	}
	n := &node{dir: dir, docker: &hosttest.Faults{}, pod: &hosttest.Faults{},
		set: &bundleruntime.Set{Choices: choices, Node: &bundleruntime.Node{Wanted: kind}}}
	n.networks = [2]*hosttest.Networks{hosttest.NewNetworks(n.docker), hosttest.NewNetworks(n.pod)}
	n.walls = [2]*hosttest.Walls{hosttest.NewWalls(n.docker), hosttest.NewWalls(n.pod)}
	return n
}

func network(o host.Owner, subnet string) host.Network {
	p := netip.MustParsePrefix(subnet)
	return host.Network{Owner: o, Subnet: p, Gateway: p.Addr().Next()}
}

func TestEachBottleHasItsRuntime(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	router := bundleruntime.NewNetworks(n.set, n.networks[0], n.networks[1], nil)
	for _, o := range []host.Owner{inDocker, inPod} { // one subnet, in two places
		if err := router.EnsureNetwork(t.Context(), network(o, "192.168.44.0/24")); err != nil {
			t.Fatal(err)
		}
	}
	for i, o := range []host.Owner{inDocker, inPod} {
		if _, err := n.networks[i].InspectNetwork(t.Context(), o); err != nil {
			t.Errorf("%s: got %v from the adapter of its runtime, want its network", o.Name, err)
		}
		if _, err := n.networks[1-i].InspectNetwork(t.Context(), o); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("%s: got %v from the other adapter, want ErrNotFound", o.Name, err)
		}
	}
	if err := router.EnsureNetwork(t.Context(), network(unknown, "192.168.45.0/24")); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("without a choice: got %v, want ErrNotFound", err)
	}
}

// TestProtectedBeforeItsNetwork: a bundle in a Pod gets no network, and so neither rules nor
// credentials, while others can connect to it.
func TestProtectedBeforeItsNetwork(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	protected, unprotected := map[host.Owner]bool{}, host.ErrUnavailable
	pods := bundleruntime.PodNetworks{Networks: n.networks[1], Protect: func(_ context.Context, o host.Owner) error {
		if _, err := n.networks[1].InspectNetwork(t.Context(), o); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("%s: got %v before it is protected, want no network", o.Name, err)
		}
		protected[o] = unprotected == nil
		return unprotected
	}}
	router := bundleruntime.NewNetworks(n.set, n.networks[0], pods, nil)
	if err := router.EnsureNetwork(t.Context(), network(inPod, "192.168.44.0/24")); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("not protected: got %v, want the error", err)
	}
	if _, err := n.networks[1].InspectNetwork(t.Context(), inPod); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("not protected: got %v, want no network", err)
	}
	unprotected = nil
	for _, o := range []host.Owner{inPod, inDocker} {
		if err := router.EnsureNetwork(t.Context(), network(o, "192.168.44.0/24")); err != nil {
			t.Fatal(err)
		}
	}
	if len(protected) != 1 || !protected[inPod] {
		t.Errorf("protected: got %v, want the Pod's bundle alone", protected)
	}
}

// TestInspectingANetworkProtectsTheBundle: a pass that finds the network in order, or none
// because the Bottle is stopped, protects the bundle in a new sandbox all the same.
func TestInspectingANetworkProtectsTheBundle(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	protected, unprotected := 0, host.ErrUnavailable
	pods := bundleruntime.PodNetworks{Networks: n.networks[1], Protect: func(context.Context, host.Owner) error {
		protected++
		return unprotected
	}}
	router := bundleruntime.NewNetworks(n.set, n.networks[0], pods, nil)
	if _, err := router.InspectNetwork(t.Context(), inPod); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("not protected: got %v, want the error", err)
	}
	unprotected = nil
	if _, err := router.InspectNetwork(t.Context(), inPod); !errors.Is(err, host.ErrNotFound) || protected != 2 {
		t.Errorf("without a network: got %v, protected %d times, want ErrNotFound and 2", err, protected)
	}
	if err := router.EnsureNetwork(t.Context(), network(inPod, "192.168.44.0/24")); err != nil {
		t.Fatal(err)
	}
	if _, err := router.InspectNetwork(t.Context(), inPod); err != nil || protected != 4 {
		t.Errorf("with a network: got %v, protected %d times, want no error and 4", err, protected)
	}
}

// TestARemovalWithoutAChoiceLooksInBoth checks that what an agent left that lost its state
// directory is found.
func TestARemovalWithoutAChoiceLooksInBoth(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	router := bundleruntime.NewNetworks(n.set, n.networks[0], n.networks[1], nil)
	for i := range n.networks {
		n.networks[i].Put(network(unknown, "192.168.44.0/24"))
	}
	if _, err := router.InspectNetwork(t.Context(), unknown); err != nil {
		t.Errorf("before: got %v, want the network", err)
	}
	if err := router.DeleteNetwork(t.Context(), unknown); err != nil {
		t.Fatal(err)
	}
	for i := range n.networks {
		if _, err := n.networks[i].InspectNetwork(t.Context(), unknown); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("adapter %d: got %v, want ErrNotFound", i, err)
		}
	}
}

// TestDockerIsNotAskedInVain checks that a node without docker is not slowed down by it.
func TestDockerIsNotAskedInVain(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	folder, err := n.dir.Folder(inDocker.UID)
	if err != nil {
		t.Fatal(err)
	}
	if !n.set.Active(bundleruntime.Docker) {
		t.Error("with a Bottle on docker: got docker not in use, want it in use")
	}
	if err := folder.Remove(); err != nil {
		t.Fatal(err)
	}
	n.set.Choices.Forget(inDocker.UID)
	n.docker.Fail("DeleteNetwork", hosttest.Before, hosttest.Always, errors.New("asked"))
	router := bundleruntime.NewNetworks(n.set, n.networks[0], n.networks[1], nil)
	if err := router.DeleteNetwork(t.Context(), unknown); err != nil {
		t.Errorf("got %v, want docker not asked", err)
	}
}

// TestWallsOfBothRuntimesAreRead checks the order, and that one runtime's failure says
// nothing about the walls of the other.
func TestWallsOfBothRuntimesAreRead(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	router := bundleruntime.NewWalls(n.set, n.walls[0], n.walls[1], func(bundleruntime.Kind, error) {})
	spec := func(o host.Owner) host.WallSpec {
		return host.WallSpec{Owner: o, Subnet: netip.MustParsePrefix("192.168.44.0/24"), BundleIP: netip.MustParseAddr("192.168.44.2"),
			Ports: []int32{8888}, MachineIP: netip.MustParseAddr("192.168.44.3")}
	}
	want := map[string]host.NetNS{}
	for i, o := range []host.Owner{inDocker, inPod} {
		n.walls[i].AddBridge(o)
		w, err := router.EnsureWall(t.Context(), spec(o))
		if err != nil {
			t.Fatal(err)
		}
		want[o.UID] = w.NetNS
	}
	order := []host.WallSpec{spec(inPod), spec(inDocker), spec(unknown)}
	walls, err := router.InspectWalls(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range order[:2] {
		if walls[i].Err != nil || walls[i].NetNS != want[s.Owner.UID] {
			t.Errorf("wall %d: got %+v, want that of %s", i, walls[i], s.Owner.Name)
		}
	}
	if walls[2].Err == nil {
		t.Error("without a choice: got a wall, want an error, so that nobody concludes anything")
	}
	n.pod.Fail("InspectWalls", hosttest.Before, hosttest.Always, errors.New("broken"))
	if walls, err = router.InspectWalls(t.Context(), order); err != nil || walls[0].Err == nil || walls[1].Err != nil {
		t.Errorf("one runtime fails: got %+v (%v), want an error of its wall only", walls, err)
	}
}

// TestAnEarlierAgentsBottleStaysOnDocker checks that an upgrade changes nothing for a machine that runs.
func TestAnEarlierAgentsBottleStaysOnDocker(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	folder, err := n.dir.Folder(unknown.UID)
	if err == nil {
		err = errors.Join(folder.Ensure(unknown), folder.WriteRecord(&state.Record{}))
	}
	if err != nil {
		t.Fatal(err)
	}
	if kind, err := n.set.Choices.Of(unknown.UID); err != nil || kind != bundleruntime.Docker {
		t.Errorf("a record without a choice: got %q, %v, want docker", kind, err)
	}
}

func TestTheRuntimeOfANode(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(dir, "absent")
	for name, tt := range map[string]struct {
		kubelet, socket, docker string
		ping                    error
		want                    bundleruntime.Kind // "" for ErrUnavailable
	}{
		"a kubelet":                               {dir, socket, absent, nil, bundleruntime.Pod},
		"no kubelet":                              {absent, socket, socket, nil, bundleruntime.Docker},
		"a Docker Engine's containerd":            {dir, socket, socket, host.ErrUnsupported, bundleruntime.Docker},
		"a container runtime that is down":        {dir, socket, absent, host.ErrUnavailable, ""},
		"no socket, but docker":                   {dir, absent, socket, host.ErrUnavailable, bundleruntime.Docker},
		"neither, as while the node still starts": {dir, absent, absent, host.ErrUnavailable, ""},
	} {
		n := &bundleruntime.Node{Wanted: bundleruntime.Auto, KubeletDir: tt.kubelet, Socket: func() string { return "unix://" + tt.socket }, DockerHost: "unix://" + tt.docker,
			Ping: func(context.Context) error { return tt.ping }}
		got, err := n.Runtime(t.Context())
		if got != tt.want || (tt.want == "") != errors.Is(err, host.ErrUnavailable) {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, tt.want)
		}
	}
}

// TestTheRuntimeOfANodeIsChosenAgain checks that a node whose container runtime starts after
// the containerd of a Docker Engine gets Bottles in Pods from then on.
func TestTheRuntimeOfANodeIsChosenAgain(t *testing.T) {
	dir := t.TempDir()
	ping, socket := host.ErrUnsupported, "unix:///containerd.sock"
	n := &bundleruntime.Node{Wanted: bundleruntime.Auto, KubeletDir: dir, Socket: func() string { return socket }, DockerHost: "unix:///docker.sock",
		Ping: func(context.Context) error { return ping }}
	for _, tt := range []struct {
		what   string
		ping   error
		socket string
		want   bundleruntime.Kind
	}{
		{"a Docker Engine's containerd", host.ErrUnsupported, socket, bundleruntime.Docker},
		{"the same socket", nil, socket, bundleruntime.Docker},
		{"another one", nil, "unix:///k3s.sock", bundleruntime.Pod},
		{"and it stays", host.ErrUnsupported, socket, bundleruntime.Pod},
	} {
		ping, socket = tt.ping, tt.socket
		if got, err := n.Runtime(t.Context()); got != tt.want || n.Known() != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.what, got, err, tt.want)
		}
	}
}

// TestTheStatusNamesTheRuntime checks that a Bottle of an agent that knew only docker, and
// that left no record on the disk, is torn down in docker.
func TestTheStatusNamesTheRuntime(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	n.set.Choices.Forget(inDocker.UID)
	router := bundleruntime.NewNetworks(n.set, n.networks[0], n.networks[1], nil)
	if err := n.networks[0].EnsureNetwork(t.Context(), network(unknown, "192.168.44.0/24")); err != nil {
		t.Fatal(err)
	}
	b := &v1alpha1.Bottle{ObjectMeta: metav1.ObjectMeta{UID: types.UID(unknown.UID)}}
	b.Status.Network = &v1alpha1.NetworkStatus{}
	if kind, err := n.set.Choices.OfBottle(b); err != nil || kind != "" {
		t.Errorf("without a bundle: got %q, %v, want none", kind, err)
	}
	inPods := b.DeepCopy()
	inPods.Status.Bundle = &v1alpha1.BundleStatus{Runtime: ptr.To(v1alpha1.BundleRuntimePod)}
	if kind, err := n.set.Choices.OfBottle(inPods); err != nil || kind != "" {
		t.Errorf("with a bundle in a Pod: got %q, %v, want none", kind, err)
	}
	if n.set.Active(bundleruntime.Docker) {
		t.Error("docker is in use, want that nobody has it")
	}
	b.Status.Bundle = &v1alpha1.BundleStatus{}
	if kind, err := n.set.Choices.OfBottle(b); err != nil || kind != bundleruntime.Docker {
		t.Errorf("got %q, %v, want docker", kind, err)
	}
	if err := router.DeleteNetwork(t.Context(), unknown); err != nil {
		t.Fatal(err)
	}
	if _, err := n.networks[0].InspectNetwork(t.Context(), unknown); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("docker's network: got %v, want ErrNotFound", err)
	}
}
