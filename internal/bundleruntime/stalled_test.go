// SPDX-License-Identifier: Apache-2.0

package bundleruntime_test

import (
	"errors"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
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
	stalled, release := make(chan struct{}), make(chan error)
	p.OnWrite(func(state.Folder, state.Pod) error {
		close(stalled)
		return <-release
	})
	c.place = pod(2)
	refreshed := make(chan error, 1)
	go func() { refreshed <- p.Refresh(t.Context(), inPod) }()
	<-stalled

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
		t.Error("the guard or a narrowing waits for the disk")
	}
	broken := errors.New("broken disk")
	release <- broken
	<-served
	if err := <-refreshed; !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of the write", err)
	}

	p.OnWrite(state.Folder.WritePod)
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
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
	p.OnWrite(func(state.Folder, state.Pod) error {
		t.Error("got a write, want none")
		return nil
	})
	for range 2 {
		if _, id, err := p.NetNS(t.Context(), inPod); err != nil || id != c.place.NetNSID {
			t.Errorf("got %v, %v, want %v", id, err, c.place.NetNSID)
		}
	}
}
