// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
	"botbottle.dev/bottle-operator/internal/state"
)

// TestTheEarlierClientIsClosed checks that a second connection to the container runtime
// leaves nothing of the first one behind.
func TestTheEarlierClientIsClosed(t *testing.T) {
	o := &AgentOptions{NodeName: "node-a", Runtime: RuntimeOptions{CRISocket: "unix://" + filepath.Join(t.TempDir(), "s"), KubeletDir: t.TempDir()}}
	r := &runtimes{}
	if err := r.connect(o, ""); err != nil {
		t.Fatal(err)
	}
	first := r.cri.Load()
	if err := r.connect(o, "cluster-1"); err != nil {
		t.Fatal(err)
	}
	second := r.cri.Load()
	t.Cleanup(func() { _ = second.Close() })
	if second == first {
		t.Error("got the same client, want another one")
	}
	if err := first.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "closing") {
		t.Errorf("the first: got %v, want an error that says that it is closed", err)
	}
}

var inPod = host.Owner{UID: "1a2b3c4d-0000-4000-8000-000000000000", Namespace: "default", Name: "demo", Slug: "demo", Cluster: "c", Node: "node-a"}

// openPodNode returns the state directory and the runtimes of a node with one Bottle in a
// Pod, whose network namespace is this process's own. Its container runtime does not answer.
func openPodNode(t *testing.T) (*AgentOptions, *state.Dir, *runtimes) {
	t.Helper()
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "own")
	err = os.Symlink("/proc/self/ns/net", own)
	id, idErr := netns.Identify(own)
	folder, folderErr := dir.Folder(inPod.UID)
	if err := errors.Join(err, idErr, folderErr); err != nil {
		t.Fatal(err)
	}
	err = errors.Join(folder.Ensure(inPod), folder.WriteRuntime("pod"), folder.WriteRecord(&state.Record{BundleMemory: 192 << 20}),
		folder.WritePod(state.Pod{UID: "p", Name: inPod.ID(), NetNS: own, NetNSID: id}))
	if err != nil {
		t.Fatal(err)
	}
	o := &AgentOptions{NodeName: "node-a", Runtime: RuntimeOptions{Kind: "pod", CRISocket: "unix://" + filepath.Join(t.TempDir(), "none"), KubeletDir: t.TempDir()}}
	r, err := o.openRuntimes(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cri.Load().Close() })
	return o, dir, r
}

// TestMachinesAreStartedInPods checks that the agent tells smolvm's driver in which Pod a
// machine belongs, and how much of the Pod's memory is the bundle's.
func TestMachinesAreStartedInPods(t *testing.T) {
	o, dir, r := openPodNode(t)
	machines := o.smolvm(dir, r)
	if got := machines.BundleMemory(inPod.ID()); got != 192<<20 {
		t.Errorf("the bundle's memory: got %d, want the recorded 192 MiB", got)
	}
	if got, err := machines.Parent(t.Context(), inPod.ID()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("the Pod's cgroup: got %q, %v, want the container runtime asked", got, err)
	}
}

// TestBundlesAreProtectedBeforeTheirNetworks checks that the agent protects a bundle in a Pod
// before it makes the Bottle's network. Here the protection fails, because the Pod's network
// namespace is the node's own.
func TestBundlesAreProtectedBeforeTheirNetworks(t *testing.T) {
	_, _, r := openPodNode(t)
	subnet := netip.MustParsePrefix("192.168.44.0/24")
	err := r.networks(nil).EnsureNetwork(t.Context(), host.Network{Owner: inPod, Subnet: subnet, Gateway: subnet.Addr().Next()})
	if !errors.Is(err, host.ErrConflict) || errors.Is(err, host.ErrUnavailable) {
		t.Errorf("got %v, want an ErrConflict about the Pod's namespace, and the container runtime not asked", err)
	}
}
