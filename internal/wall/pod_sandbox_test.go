// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

const withoutSandbox = "closed: the Pod's sandbox does not exist"

// TestSandboxReplaced: the wall of a Pod whose sandbox ends is closed, and leads into the
// next one after EnsureWall.
func TestSandboxReplaced(t *testing.T) {
	w := newPodWorld(t)
	spec, _, wall := w.standing(t, 80)
	ns := wallNS(t, wall)
	w.removePod(t, spec.Owner)
	for range 2 {
		got := w.inspect(t, spec)
		if describe(got.Faults) != withoutSandbox || got.NetNS != wall.NetNS || got.Err != nil {
			t.Errorf("without a sandbox: got %+v, want the namespace %v and the fault %q", got, wall.NetNS, withoutSandbox)
		}
		_, err := w.pods.EnsureWall(t.Context(), spec)
		mustErr(t, "ensure without a sandbox", err, host.ErrNotFound)
	}
	pod := w.addPod(t, spec)
	_, err := w.pods.EnsureWall(t.Context(), spec)
	mustErr(t, "ensure without a bridge", err, host.ErrNotFound)
	w.addBridge(t, spec)
	w.listen(t, spec, 8888)
	got := w.inspect(t, spec)
	if len(got.Faults) == 0 || strings.Contains(describe(got.Faults), "open:") {
		t.Errorf("in the new sandbox: got faults %s, want some that are not open", describe(got.Faults))
	}
	if again := w.stand(t, spec); again.NetNS != wall.NetNS {
		t.Errorf("namespace: got %v, want the same %v", again.NetNS, wall.NetNS)
	}
	if got, err := dial(t, ns, addrPort(spec.BundleIP, 8888), soon); got != "hello" {
		t.Errorf("from the same namespace: got %q, %v, want hello", got, err)
	}
	w.wantBundleHidden(t, pod)
}

// TestFormerSandboxIsHeld: somebody keeps the namespace of a former sandbox alive. The
// machine must not stay connected to it.
func TestFormerSandboxIsHeld(t *testing.T) {
	for _, replaced := range []string{"none yet", "a new sandbox", "a new sandbox with a bridge"} {
		t.Run(replaced, func(t *testing.T) {
			w := newPodWorld(t)
			spec, pod, wall := w.standing(t, 81)
			held := podNSFile(t, pod)
			w.removePod(t, spec.Owner)
			switch replaced {
			case "none yet":
				if got := describe(w.inspect(t, spec).Faults); got != withoutSandbox {
					t.Errorf("faults: got %s, want %s", got, withoutSandbox)
				}
			case "a new sandbox with a bridge":
				w.addBundle(t, spec, 8888)
			default:
				w.addPod(t, spec)
			}
			again, err := w.pods.EnsureWall(t.Context(), spec)
			if replaced == "a new sandbox with a bridge" {
				must(t, err)
				greet(t, again, spec)
			} else {
				mustErr(t, "ensure", err, host.ErrNotFound)
				if links := runIn(t, wall.Path, "ip", "link"); strings.Contains(links, innerName) {
					t.Errorf("links of the machine: got\n%s, want no %s", links, innerName)
				}
			}
			must(t, in(t, held, func() error {
				links, err := linksByName()
				if links[spec.Owner.Veth()] != nil {
					t.Errorf("links in the former sandbox: got %s, want none", spec.Owner.Veth())
				}
				return err
			}))
		})
	}
}

// TestDeleteWithoutSandbox: a wall is deleted although its Pod has gone, and is listed until
// then.
func TestDeleteWithoutSandbox(t *testing.T) {
	for _, held := range []bool{false, true} {
		w := newPodWorld(t)
		spec, pod, wall := w.standing(t, 82)
		if held {
			podNSFile(t, pod)
		}
		ns := wallNS(t, wall) // something still runs behind the wall
		w.removePod(t, spec.Owner)
		list, err := w.pods.ListWalls(t.Context())
		must(t, err)
		if len(list) != 1 || list[0].UID != spec.Owner.UID {
			t.Errorf("list: got %v, want the wall", list)
		}
		must(t, w.pods.DeleteWall(t.Context(), spec.Owner))
		must(t, in(t, ns, func() error {
			links, err := linksByName()
			if len(links) != 1 {
				t.Errorf("links behind the wall: got %d, want lo alone", len(links))
			}
			return err
		}))
		if list, err = w.pods.ListWalls(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("list after delete: got %v, %v, want none", list, err)
		}
	}
}

// TestNodesWallsDeletePodWalls: the walls of the node list and delete the machine's side of
// a wall whose other side is in a Pod, so that a cleanup of the node needs no Pod.
func TestNodesWallsDeletePodWalls(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, _ := w.standing(t, 83)
	list, err := w.walls.ListWalls(t.Context())
	must(t, err)
	if len(list) != 1 || list[0].UID != spec.Owner.UID {
		t.Errorf("list: got %v, want the wall", list)
	}
	must(t, w.walls.DeleteWall(t.Context(), spec.Owner))
	if links := runIn(t, pod.path, "ip", "link"); strings.Contains(links, spec.Owner.Veth()) {
		t.Errorf("links in the Pod: got\n%s, want no %s", links, spec.Owner.Veth())
	}
	// The remains in the Pod are in nobody's way.
	if again := w.stand(t, spec); len(again.Faults) > 0 {
		t.Errorf("made again: got faults %s, want none", describe(again.Faults))
	}
}

// watch starts a watch that counts its reports until the test ends.
func (w *podWorld) watch(t *testing.T) *atomic.Int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var reports atomic.Int64
	ended := make(chan error, 1)
	go func() { ended <- w.pods.WatchWalls(ctx, func() { reports.Add(1) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("watch: got %v, want the context's error", err)
		}
	})
	return &reports
}

// awaitSilence waits until nothing is reported any more.
func awaitSilence(t *testing.T, reports *atomic.Int64) {
	t.Helper()
	await.True(t, "silence", func() bool {
		before := reports.Load()
		time.Sleep(100 * time.Millisecond)
		return reports.Load() == before
	})
}

// TestPodDamageIsReported: the watch reports what is done in a Pod at once.
func TestPodDamageIsReported(t *testing.T) {
	w := newPodWorld(t)
	reports := w.watch(t)
	spec, pod, wall := w.standing(t, 84)
	for _, d := range podDamages() {
		what := strings.Join(d.how, "; ")
		if strings.Contains(what, "inside") || strings.Contains(what, " ID") || strings.Contains(what, "PATH") || len(d.found) == 0 || strings.Contains(d.found[0], "is in bridge") {
			continue // a change inside the machine's namespace or of a foreign link
		}
		awaitSilence(t, reports)
		before := reports.Load()
		d.do(t, spec, wall.Path, "nsenter", "--net="+pod.path)
		await.True(t, "a report of "+d.name, func() bool { return reports.Load() > before })
		runIn(t, pod.path, "sh", "-c", "ip link del other 2>/dev/null; true")
		_, err := w.pods.EnsureWall(t.Context(), spec)
		must(t, err)
	}
}

// TestSandboxEnds: while its wall is watched and inspected all the time, a sandbox's
// namespace ends with its last other user, because its links disappear.
func TestSandboxEnds(t *testing.T) {
	w := newPodWorld(t)
	reports := w.watch(t)
	spec, pod, _ := w.standing(t, 85)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = w.pods.InspectWalls(t.Context(), []host.WallSpec{spec})
				_, _ = w.pods.EnsureWall(t.Context(), spec)
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	if linkGone(pod.veth) {
		t.Fatal("the Pod's link has gone before its sandbox: the test proves nothing")
	}
	started := time.Now()
	w.abandonPod(t, spec.Owner)
	await.True(t, "the end of the namespace", func() bool { return linkGone(pod.veth) })
	t.Logf("the namespace ended after %s", time.Since(started))
	close(stop)
	<-stopped
	awaitSilence(t, reports)
	if got := describe(w.inspect(t, spec).Faults); got != withoutSandbox {
		t.Errorf("faults: got %s, want %s", got, withoutSandbox)
	}
}

// TestSandboxsEndIsReported: the end of a Pod's network namespace is reported, even if nobody
// inspects its wall.
func TestSandboxsEndIsReported(t *testing.T) {
	w := newPodWorld(t)
	reports := w.watch(t)
	spec, pod, _ := w.standing(t, 86)
	awaitSilence(t, reports)
	before := reports.Load()
	w.abandonPod(t, spec.Owner)
	await.True(t, "a report", func() bool { return reports.Load() > before })
	await.True(t, "the end of the namespace", func() bool { return linkGone(pod.veth) })
}

// TestMachineIsTheNode: the name of a machine's namespace leads to that of the node or of the
// Pod.
func TestMachineIsTheNode(t *testing.T) {
	w := newPodWorld(t)
	spec, pod, wall := w.standing(t, 87)
	wallNS(t, wall) // holds the namespace, and therefore its link
	for _, other := range []string{"/proc/self/ns/net", pod.path} {
		must(t, removeNetNS(wall.Path))
		must(t, os.WriteFile(wall.Path, nil, 0o444))
		must(t, unix.Mount(other, wall.Path, "none", unix.MS_BIND, ""))
		want := "open: " + wall.Path + " is the network namespace of the node or of the Pod"
		if got, _, _ := strings.Cut(describe(w.inspect(t, spec).Faults), "\n"); got != want {
			t.Errorf("first fault: got %s, want %s", got, want)
		}
		_, err := w.pods.EnsureWall(t.Context(), spec)
		mustErr(t, "ensure", err, host.ErrConflict)
		must(t, w.pods.DeleteWall(t.Context(), spec.Owner))
		if _, err := os.Lstat(wall.Path); err != nil {
			t.Errorf("after delete: got %v, want the file left alone", err)
		}
	}
	must(t, removeNetNS(wall.Path))
}
