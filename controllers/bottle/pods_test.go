// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/state"
)

// testPods are the Pods of the world's Bottles. The zero value is a node whose Bottles
// are on docker.
type testPods struct {
	faults *hosttest.Faults
	node   bundleruntime.Kind // the runtime of new Bottles; "" is docker
	mu     sync.Mutex
	pods   map[string]bundleruntime.Place // by UID of the Bottle
	err    error                          // of the container runtime
	// protected are the namespaces in which nobody else reaches the bundle, by their number.
	protected map[uint64]bool
	// onStart, if not nil, runs when a machine is about to be started.
	onStart func()
}

func (p *testPods) locate(_ context.Context, owner host.Owner) (place bundleruntime.Place, err error) {
	err = p.faults.Around("LocatePod "+owner.ID(), func() (err error) {
		place, err = p.find(owner)
		return err
	})
	if err != nil {
		return bundleruntime.Place{}, err
	}
	return place, nil
}

func (p *testPods) find(owner host.Owner) (bundleruntime.Place, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return bundleruntime.Place{}, p.err
	}
	place, ok := p.pods[owner.UID]
	if !ok {
		return place, host.ErrNotFound
	}
	return place, nil
}

// testRuntimes are the runtimes of the node. The same fakes stand for both.
type testRuntimes struct {
	bundleruntime.Runtimes
	networks host.Networks
	bundles  host.Bundles
	walls    host.Walls
	pods     bundleruntime.Pods
}

func (w *world) runtimes(dir *state.Dir) *testRuntimes {
	w.t.Helper()
	w.pods.faults = w.faults
	choices, err := bundleruntime.NewChoices(dir, func(context.Context) (bundleruntime.Kind, error) {
		w.pods.mu.Lock()
		defer w.pods.mu.Unlock()
		return cmp.Or(w.pods.node, bundleruntime.Docker), w.pods.err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	places, err := bundleruntime.NewPlaces(bundleruntime.PlacesOptions{
		State: dir, Choices: choices, Locate: w.pods.locate,
		Identify: func(string) (host.NetNS, error) { return host.NetNS{}, nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	set := &bundleruntime.Set{Choices: choices, Node: &bundleruntime.Node{Wanted: cmp.Or(w.pods.node, bundleruntime.Docker)}}
	lost := func(bundleruntime.Kind, error) {}
	inPods := bundleruntime.PodNetworks{Networks: podNetworks{w.networks, &w.pods}, Protect: w.pods.protect}
	return &testRuntimes{
		Runtimes: bundleruntime.Runtimes{Choices: choices, Places: places},
		networks: bundleruntime.NewNetworks(set, w.networks, inPods, places),
		bundles:  bundleruntime.NewBundles(set, w.bundles, podBundles{w.bundles, &w.pods}, lost),
		walls:    bundleruntime.NewWalls(set, w.walls, w.walls, lost),
		pods:     bundleruntime.Pods{Choices: choices, Occupied: inPods.OccupiedPrefixes},
	}
}

// canPublish: only root can copy the rules to where bundles in Pods read them, and only to a
// folder in memory.
func canPublish() bool { return os.Geteuid() == 0 && os.TempDir() == "/dev/shm" }

func (r *testRuntimes) publish(uid string, rules []byte) error {
	if !canPublish() {
		return nil
	}
	return r.Places.Publish(uid, rules)
}

// podNetworks are networks in Pods: without its Pod, a Bottle cannot have one.
type podNetworks struct {
	*hosttest.Networks
	pods *testPods
}

func (n podNetworks) OccupiedPrefixes(ctx context.Context, owner host.Owner) ([]netip.Prefix, error) {
	if _, err := n.pods.find(owner); err != nil {
		return nil, err
	}
	return n.Networks.OccupiedPrefixes(ctx, owner)
}

func (n podNetworks) EnsureNetwork(ctx context.Context, want host.Network) error {
	if _, err := n.pods.find(want.Owner); err != nil {
		return err
	}
	return n.Networks.EnsureNetwork(ctx, want)
}

// podBundles are containers of Pods: without its Pod, a Bottle has none, and only the
// kubelet removes one.
type podBundles struct {
	*hosttest.Bundles
	pods *testPods
}

func (b podBundles) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	if _, err := b.pods.find(spec.Owner); err != nil {
		return host.Bundle{}, err
	}
	return b.Bundles.EnsureBundle(ctx, spec)
}

// DeleteBundle ends the container, which stays in the Pod.
func (b podBundles) DeleteBundle(_ context.Context, owner host.Owner) error {
	return b.pods.faults.Around("DeleteBundle "+owner.ID(), func() error {
		if _, err := b.pods.find(owner); err != nil && !errors.Is(err, host.ErrNotFound) {
			return err
		}
		b.Exit(owner, 137)
		return nil
	})
}

// podMachines are machines that are started in the Pods of their Bottles.
type podMachines struct {
	*hosttest.Machines
	pods   *testPods
	places *bundleruntime.Places
}

func (m podMachines) StartMachine(ctx context.Context, name, netns string) error {
	if m.pods.onStart != nil {
		m.pods.onStart()
	}
	if _, err := m.places.Parent(ctx, name); err != nil {
		return host.ErrUnavailable
	}
	return m.Machines.StartMachine(ctx, name, netns)
}

// protect stands for wall.PodWalls.ProtectBundle.
func (p *testPods) protect(_ context.Context, owner host.Owner) error {
	place, err := p.find(owner)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.protected == nil {
		p.protected = map[uint64]bool{}
	}
	p.protected[place.NetNSID.Inode] = true
	return nil
}

// movePod makes the Pod of the demo Bottle another one.
func (w *world) movePod(uid string) {
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	place := w.pods.pods[testUID]
	place.UID = uid
	w.pods.pods[testUID] = place
}

// machineRecord returns the record of the demo Bottle's machine.
func (w *world) machineRecord() state.Record {
	w.t.Helper()
	folder, err := w.r.State.Folder(testUID)
	if err != nil {
		w.t.Fatal(err)
	}
	rec, err := folder.Record()
	if err != nil || rec == nil {
		w.t.Fatalf("record: got %v, %v, want one", rec, err)
	}
	return *rec
}

// newPodWorld is newWorld on a node whose Bottles have their bundles in Pods.
func newPodWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := newWorld(t, objects...)
	w.pods.node = bundleruntime.Pod
	w.restartAgent()
	return w
}

// inBothRuntimes runs a test once for each runtime that bundles may have.
func inBothRuntimes(t *testing.T, test func(t *testing.T, kind bundleruntime.Kind)) {
	for _, kind := range []bundleruntime.Kind{bundleruntime.Docker, bundleruntime.Pod} {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

// newWorldOn is newWorld on a node whose Bottles have their bundles in this runtime. The
// Pod of the demo Bottle runs.
func newWorldOn(t *testing.T, kind bundleruntime.Kind, b *v1alpha1.Bottle) *world {
	t.Helper()
	if kind != bundleruntime.Pod {
		return newWorld(t, b)
	}
	w := newPodWorld(t, b)
	w.startPod(1, desired.BundleDigest(b))
	return w
}

// failRuntime makes the container runtime fail; nil ends that.
func (w *world) failRuntime(err error) {
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	w.pods.err = err
}

// endPod makes the kubelet remove the Pod of the demo Bottle, if there is one, with the
// network in it. A machine ends with its Pod, because it runs in the Pod's cgroup.
func (w *world) endPod() {
	w.pods.mu.Lock()
	_, exists := w.pods.pods[testUID]
	delete(w.pods.pods, testUID)
	w.pods.mu.Unlock()
	if !exists {
		return
	}
	w.loseNetwork()
	if m, _, ok := w.machines.Get(testID); ok && m.State == host.MachineRunning {
		w.machines.Kill(testID)
	}
}

// loseNetwork removes what was in the network namespace of the Pod.
func (w *world) loseNetwork() {
	w.bundles.Remove(demoOwner)
	w.networks.Remove(testID)
	w.walls.RemoveBridge(demoOwner)
}

// startPod makes the kubelet start the Pod of the demo Bottle, or replace the sandbox of the
// one that runs, in a namespace with this number. bundle is its annotation.
func (w *world) startPod(inode uint64, bundle string) bundleruntime.Place {
	w.t.Helper()
	return w.startPodAs("pod", inode, bundle)
}

func (w *world) startPodAs(uid string, inode uint64, bundle string) bundleruntime.Place {
	w.t.Helper()
	volumes := filepath.Join(w.t.TempDir(), "volumes")
	place := bundleruntime.Place{Bundle: bundle, Pod: state.Pod{
		UID: uid, Name: testID, NetNS: "/run/netns/x", NetNSID: host.NetNS{Dev: 4, Inode: inode}, Cgroup: "kubepods/pod" + uid,
		Rules: filepath.Join(volumes, "rules"), Secrets: filepath.Join(volumes, "secrets"),
	}}
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	if old, ok := w.pods.pods[testUID]; ok && old.UID == uid { // volumes outlive a sandbox
		place.Rules, place.Secrets = old.Rules, old.Secrets
	}
	for _, dir := range []string{place.Rules, place.Secrets} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			w.t.Fatal(err)
		}
	}
	if w.pods.pods == nil {
		w.pods.pods = map[string]bundleruntime.Place{}
	}
	w.pods.pods[testUID] = place
	w.walls.AddBridge(demoOwner)
	return place
}

// published returns the files that the bundle in the Pod of the demo Bottle reads: none on
// docker.
func (w *world) published() map[string]string {
	w.t.Helper()
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	out := map[string]string{}
	dir := w.pods.pods[testUID].Rules
	entries, _ := os.ReadDir(dir) // none without a Pod
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			w.t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}
