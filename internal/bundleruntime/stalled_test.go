// SPDX-License-Identifier: Apache-2.0

package bundleruntime_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/stalled"
)

// hangs is how long a call may take before the test says that it hangs.
const hangs = 30 * time.Second

// TestNobodyWaitsForAStalledDisk checks that a write that does not end delays neither the
// guard nor what narrows a guest's reach, that both use the newest answer, and that it is
// written in the end.
func TestNobodyWaitsForAStalledDisk(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1), alive: host.NetNS{Dev: 4, Inode: 2}}
	p := c.places(t, n)
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	disk := stalled.Make(t, n.podFile(t))
	c.place = pod(2)
	refreshed := make(chan error, 1)
	go func() { refreshed <- p.Refresh(t.Context(), inPod) }()
	disk.Await()
	folder, err := n.dir.Folder(inPod.UID)
	if err == nil {
		err = os.MkdirAll(folder.BundleDir(), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	stalled.Make(t, filepath.Join(folder.BundleDir(), "upstream-ca.pem"))

	served := make(chan struct{})
	go func() {
		defer close(served)
		if _, id, err := p.NetNS(t.Context(), inPod); err != nil || id != c.place.NetNSID {
			t.Errorf("namespace: got %v, %v, want %v", id, err, c.place.NetNSID)
		}
		if got := p.PodOf(inPod.UID); got != "p" {
			t.Errorf("Pod: got %q, want p", got)
		}
		if err := p.Publish(inPod.UID, []byte("rules")); err != nil {
			t.Errorf("publish: got %v, want nil", err)
		}
		if _, copied := p.Published(inPod.UID); !copied {
			t.Error("published: got another bundle than that of a Pod")
		}
	}()
	select {
	case <-served:
	case <-time.After(hangs):
		t.Fatal("the guard or a narrowing waits for the disk")
	}
	disk.End()
	if err := <-refreshed; err != nil {
		t.Errorf("got %v, want nil", err)
	}
	c.err = host.ErrUnavailable
	if _, id, err := c.places(t, n).NetNS(t.Context(), inPod); err != nil || id != c.place.NetNSID {
		t.Errorf("the next agent: got %v, %v, want %v", id, err, c.place.NetNSID)
	}
}

// TestTheGuardsQuestionWritesNothing checks that the guard gets the container runtime's answer
// while no file can be written, also where each scan asks again.
func TestTheGuardsQuestionWritesNothing(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1), alive: host.NetNS{Dev: 4, Inode: 1}}
	c.place.NetNS = "/proc/1/ns/net"
	p := c.places(t, n)
	for range 2 {
		if _, id, err := p.NetNS(t.Context(), inPod); err != nil || id != c.place.NetNSID {
			t.Errorf("got %v, %v, want %v", id, err, c.place.NetNSID)
		}
	}
	if _, err := os.Lstat(n.podFile(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no file", err)
	}
}

// TestAFailedWriteIsRepeated checks that what could not be written is an error of the pass,
// counts nevertheless, and is written by the next pass.
func TestAFailedWriteIsRepeated(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1), alive: host.NetNS{Dev: 4, Inode: 1}}
	p := c.places(t, n)
	repair := n.breakDisk(t)
	for range 2 {
		if err := p.Refresh(t.Context(), inPod); err == nil {
			t.Error("got nil, want the error of the write")
		}
	}
	if got := p.PodOf(inPod.UID); got != "p" {
		t.Errorf("Pod: got %q, want p", got)
	}
	repair()
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	if got := c.places(t, n).PodOf(inPod.UID); got != "p" {
		t.Errorf("the next agent: got Pod %q, want p", got)
	}
}

func (n *node) podFile(t *testing.T) string {
	t.Helper()
	folder, err := n.dir.Folder(inPod.UID)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder.Path(), "pod.json")
}

// breakDisk makes it impossible to write pod.json, until repair is called.
func (n *node) breakDisk(t *testing.T) (repair func()) {
	t.Helper()
	path := n.podFile(t)
	if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}
