// SPDX-License-Identifier: Apache-2.0

package bundleruntime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/test/require"
)

// cluster is a container runtime with one Pod.
type cluster struct {
	place bundleruntime.Place
	err   error
	asked int
	alive host.NetNS // of the namespace that exists
}

func (c *cluster) places(n *node) *bundleruntime.Places {
	return bundleruntime.NewPlaces(bundleruntime.PlacesOptions{
		State: n.dir, Choices: n.set.Choices,
		Locate: func(context.Context, host.Owner) (bundleruntime.Place, error) { c.asked++; return c.place, c.err },
		Folders: func(context.Context, host.Owner) (rules, secrets string, err error) {
			return c.place.Rules, c.place.Secrets, nil
		},
		Identify: func(string) (host.NetNS, error) {
			if c.alive == (host.NetNS{}) {
				return c.alive, errors.New("gone")
			}
			return c.alive, nil
		},
	})
}

func pod(inode uint64) bundleruntime.Place {
	return bundleruntime.Place{Bundle: "digest", Pod: state.Pod{UID: "p", Name: "pod", NetNS: "/run/netns/x", NetNSID: host.NetNS{Dev: 4, Inode: inode}, Cgroup: "kubepods/podp"}}
}

// TestTheGuardNeedsNoContainerRuntime checks that the namespace is found from the folder
// alone while it exists, by another agent and without an answer.
func TestTheGuardNeedsNoContainerRuntime(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1), alive: host.NetNS{Dev: 4, Inode: 1}}
	if err := c.places(n).Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	c.err, c.asked = host.ErrUnavailable, 0
	later := c.places(n)
	if _, id, err := later.NetNS(t.Context(), inPod); err != nil || id != c.place.NetNSID || c.asked != 0 {
		t.Errorf("got %v, %v and %d questions, want %v and none", id, err, c.asked, c.place.NetNSID)
	}
	c.alive = host.NetNS{}
	if _, _, err := later.NetNS(t.Context(), inPod); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("the namespace is gone: got %v, want ErrUnavailable", err)
	}
}

func TestAReplacedNamespaceIsReportedOnce(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1)}
	p := c.places(n)
	take := func(when string, p *bundleruntime.Places, want bool) {
		t.Helper()
		if err := p.Refresh(t.Context(), inPod); err != nil {
			t.Fatal(err)
		}
		if got, err := p.TakeReplaced(inPod.UID); err != nil || got != want {
			t.Errorf("%s: got %t, %v, want %t", when, got, err, want)
		}
	}
	take("the first", p, false)
	take("the same", p, false)
	c.place = pod(2)
	if err := p.Refresh(t.Context(), inPod); err != nil { // the guard may notice it first
		t.Fatal(err)
	}
	take("another", c.places(n), true) // and another agent report it
	take("reported", c.places(n), false)
}

// TestRulesAreCopiedIntoThePod checks that a Pod gets the rules of the Bottle's folder, also
// when its volume is new, and that without a Pod nothing fails.
func TestRulesAreCopiedIntoThePod(t *testing.T) {
	require.Root(t)
	n := newNode(t, bundleruntime.Pod)
	volume := t.TempDir()
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal("mount a tmpfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) })
	folder, err := n.dir.Folder(inPod.UID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := folder.WriteRules([]byte("rules")); err != nil {
		t.Fatal(err)
	}
	c := &cluster{place: pod(1)}
	p := c.places(n)
	if err := p.Publish(inPod.UID); err != nil {
		t.Errorf("without a Pod: got %v, want nil", err)
	}
	c.place.Rules = volume
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	want := func(text string) {
		t.Helper()
		if err := p.Publish(inPod.UID); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(volume, "egress.json")); err != nil || string(got) != text {
			t.Errorf("got %q, %v, want %q", got, err, text)
		}
	}
	want("rules")
	if err := os.Remove(filepath.Join(volume, "egress.json")); err != nil { // as in a new Pod
		t.Fatal(err)
	}
	want("rules")
	if _, err := folder.WriteRules([]byte("fewer")); err != nil {
		t.Fatal(err)
	}
	want("fewer")
	if err := unix.Unmount(volume, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(inPod.UID); err == nil {
		t.Error("on a disk: got nil, want an error")
	}
	if entries, _ := os.ReadDir(volume); len(entries) > 0 {
		t.Errorf("on a disk: got %d files, want none", len(entries))
	}
}
