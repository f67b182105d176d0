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

	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/state"
)

// testPods are the Pods of the world's Bottles. The zero value is a node whose Bottles
// are on docker.
type testPods struct {
	node bundleruntime.Kind // the runtime of new Bottles; "" is docker
	mu   sync.Mutex
	pods map[string]bundleruntime.Place // by UID of the Bottle
	err  error                          // of the container runtime
}

func (p *testPods) locate(_ context.Context, owner host.Owner) (bundleruntime.Place, error) {
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

func (p *testPods) folders(_ context.Context, owner host.Owner) (rules, secrets string, err error) {
	place, err := p.locate(context.Background(), owner)
	if err == nil && place.Rules == "" {
		err = host.ErrNotFound
	}
	return place.Rules, place.Secrets, err
}

// runtimes returns the runtimes of the node. The same fakes stand for both.
func (w *world) runtimes(dir *state.Dir) (*bundleruntime.Runtimes, host.Networks, host.Bundles) {
	w.t.Helper()
	choices, err := bundleruntime.NewChoices(dir, func(context.Context) (bundleruntime.Kind, error) {
		w.pods.mu.Lock()
		defer w.pods.mu.Unlock()
		return cmp.Or(w.pods.node, bundleruntime.Docker), w.pods.err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	places := bundleruntime.NewPlaces(bundleruntime.PlacesOptions{
		State: dir, Choices: choices, Locate: w.pods.locate, Folders: w.pods.folders,
		Identify: func(string) (host.NetNS, error) { return host.NetNS{}, nil },
	})
	set := &bundleruntime.Set{Choices: choices, Node: &bundleruntime.Node{Wanted: cmp.Or(w.pods.node, bundleruntime.Docker)}}
	lost := func(bundleruntime.Kind, error) {}
	return &bundleruntime.Runtimes{Choices: choices, Places: places},
		bundleruntime.NewNetworks(set, w.networks, podNetworks{w.networks, &w.pods}, places), bundleruntime.NewBundles(set, w.bundles, w.bundles, lost)
}

// podNetworks are networks in Pods: without its Pod, a Bottle cannot have one.
type podNetworks struct {
	*hosttest.Networks
	pods *testPods
}

func (n podNetworks) OccupiedPrefixes(ctx context.Context, owner host.Owner) ([]netip.Prefix, error) {
	if _, err := n.pods.locate(ctx, owner); err != nil {
		return nil, err
	}
	return n.Networks.OccupiedPrefixes(ctx, owner)
}

// newPodWorld is newWorld on a node whose Bottles have their bundles in Pods.
func newPodWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := newWorld(t, objects...)
	w.pods.node = bundleruntime.Pod
	w.restartAgent()
	return w
}

// failRuntime makes the container runtime fail; nil ends that.
func (w *world) failRuntime(err error) {
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	w.pods.err = err
}

// endPod makes the kubelet remove the Pod of the demo Bottle, with the network in it.
func (w *world) endPod() {
	w.pods.mu.Lock()
	delete(w.pods.pods, testUID)
	w.pods.mu.Unlock()
	w.loseNetwork()
}

// loseNetwork removes what was in the network namespace of the Pod.
func (w *world) loseNetwork() {
	w.t.Helper()
	if err := errors.Join(w.bundles.DeleteBundle(w.t.Context(), demoOwner), w.networks.DeleteNetwork(w.t.Context(), demoOwner)); err != nil {
		w.t.Fatal(err)
	}
}

// startPod makes the kubelet start the Pod of the demo Bottle, in a namespace with this
// number. bundle is its annotation.
func (w *world) startPod(inode uint64, bundle string) bundleruntime.Place {
	w.t.Helper()
	volumes := filepath.Join(w.t.TempDir(), "volumes")
	place := bundleruntime.Place{Bundle: bundle, Pod: state.Pod{
		UID: "pod", Name: testID, NetNS: "/run/netns/x", NetNSID: host.NetNS{Dev: 4, Inode: inode}, Cgroup: "kubepods/podx",
		Rules: filepath.Join(volumes, "rules"), Secrets: filepath.Join(volumes, "secrets"),
	}}
	for _, dir := range []string{place.Rules, place.Secrets} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			w.t.Fatal(err)
		}
	}
	w.pods.mu.Lock()
	defer w.pods.mu.Unlock()
	if w.pods.pods == nil {
		w.pods.pods = map[string]bundleruntime.Place{}
	}
	w.pods.pods[testUID] = place
	return place
}
