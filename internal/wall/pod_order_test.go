// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// TestEnsureInAPodCanDieAnywhere ends EnsureWall between any two of its steps. The wall's
// link may then not be up or in the bridge without its filter, the Pod's table and a bridge
// that does not forward, and the next call must complete the wall.
func TestEnsureInAPodCanDieAnywhere(t *testing.T) {
	w := newPodWorld(t)
	spec := newSpec(t, 44)
	w.addBundle(t, spec, 8888)
	pod := w.pod(spec.Owner)
	t.Cleanup(func() { w.remove(t, spec) })
	want, err := expect(spec)
	must(t, err)
	for steps := int64(1); ; steps++ {
		runIn(t, pod.path, "sh", "-c", "nft delete table inet "+podTableName+" 2>/dev/null; echo 1 > "+forwarding(spec.Owner.Bridge()))
		ctx := dying{Context: t.Context(), left: &atomic.Int64{}}
		ctx.left.Store(steps)
		_, err := w.pods.EnsureWall(ctx, spec)
		var f facts
		must(t, in(t, podNSFile(t, pod), func() (err error) {
			f, err = podSide{w.pods}.observeOne(t.Context(), spec)
			return err
		}))
		fault := filterFault(f.filter, want)
		if end := f.bundleEnd; end != nil && (end.up || end.master != 0) && (fault != "" || f.pod.table != "" || f.pod.forwards) {
			t.Errorf("died after %d steps: link up %t, in bridge %t, and the filter %q, the Pod's table %q, forwards %t",
				steps, end.up, end.master != 0, fault, f.pod.table, f.pod.forwards)
		}
		if err == nil {
			if steps < 9 {
				t.Errorf("steps: got %d, want at least 9", steps)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("died after %d steps: got %v, want context.Canceled", steps, err)
		}
		greet(t, w.stand(t, spec), spec)
		must(t, w.pods.DeleteWall(t.Context(), spec.Owner))
	}
}

// TestStaleLookup: the file is no longer the namespace that was found. Nothing may be done
// in what is there now.
func TestStaleLookup(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, _ := w.standing(t, 45)
	w.mu.Lock()
	pod.id.Inode++
	w.mu.Unlock()
	if got := describe(w.inspect(t, spec).Faults); got != withoutSandbox {
		t.Errorf("faults: got %s, want %s", got, withoutSandbox)
	}
	_, err := w.pods.EnsureWall(t.Context(), spec)
	mustErr(t, "ensure", err, host.ErrNotFound)
	w.mu.Lock()
	pod.id.Inode--
	w.mu.Unlock()
}

// TestSlowLookup: a lookup without an answer is an error of its own wall only.
func TestSlowLookup(t *testing.T) {
	w := newPodWorld(t)
	spec, _, _ := w.standing(t, 46)
	slow, _, _ := w.standing(t, 47)
	w.pods.namespace = func(ctx context.Context, owner host.Owner) (string, host.NetNS, error) {
		if owner == slow.Owner {
			<-ctx.Done()
		}
		return w.lookup(ctx, owner)
	}
	started := time.Now()
	walls, err := w.pods.InspectWalls(t.Context(), []host.WallSpec{slow, spec})
	must(t, err)
	mustErr(t, "the slow one", walls[0].Err, host.ErrUnavailable)
	wantFaults := describe(walls[1].Faults)
	if took := time.Since(started); walls[1].Err != nil || wantFaults != "" || took > 4*inspectionLimit {
		t.Errorf("the other one: got %v, faults %q after %s, want none after about %s", walls[1].Err, wantFaults, took, inspectionLimit)
	}
	w.pods.namespace = w.lookup
}

// TestPodInAMesh: a service mesh redirects what a Pod receives and sends. It gets nothing of
// what its machine sends, and does not hide the bundle's ports from us.
func TestPodInAMesh(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 48)
	meshes := func(rules ...string) {
		for _, line := range rules {
			runIn(t, pod.path, "nft", line)
		}
	}
	meshes("add table ip mesh", "add chain ip mesh pre { type nat hook prerouting priority dstnat ; }", "add chain ip mesh out { type nat hook output priority -100 ; }",
		"add rule ip mesh pre meta l4proto tcp redirect to :15006", "add rule ip mesh out meta l4proto tcp redirect to :15006")
	ns := podNSFile(t, pod)
	seen := make(chan struct{}, 100)
	l := serveIn(t, ns, netip.MustParseAddrPort("0.0.0.0:15006"), "mesh", seen)
	t.Cleanup(func() { l.Close() })
	for range 2 {
		greet(t, wall, spec)
	}
	if len(seen) > 0 {
		t.Errorf("connections of the machine to the mesh: got %d, want 0", len(seen))
	}
	w.wantBundleHidden(t, pod)
	runIn(t, pod.path, "nft", "delete", "table", "inet", podTableName)
	if got, err := dialNode(t, addrPort(pod.ip, 8888), soon); got != "mesh" {
		t.Errorf("without the table: got %q, %v, want mesh: the test proves nothing", got, err)
	}
	if got, err := dial(t, wallNS(t, wall), addrPort(spec.BundleIP, 8888), 300*time.Millisecond); err == nil {
		t.Errorf("from the machine, without the chain for answers: got %q, want no answer: the test proves nothing", got)
	}
}
