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

func (c *cluster) places(t *testing.T, n *node) *bundleruntime.Places {
	t.Helper()
	return newPlaces(t, bundleruntime.PlacesOptions{
		State: n.dir, Choices: n.set.Choices,
		Locate: func(context.Context, host.Owner) (bundleruntime.Place, error) { c.asked++; return c.place, c.err },
		Identify: func(string) (host.NetNS, error) {
			if c.alive == (host.NetNS{}) {
				return c.alive, errors.New("gone")
			}
			return c.alive, nil
		},
	})
}

func newPlaces(t *testing.T, o bundleruntime.PlacesOptions) *bundleruntime.Places {
	t.Helper()
	p, err := bundleruntime.NewPlaces(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func pod(inode uint64) bundleruntime.Place {
	return bundleruntime.Place{Bundle: "digest", Pod: state.Pod{UID: "p", Name: "pod", NetNS: "/run/netns/x", NetNSID: host.NetNS{Dev: 4, Inode: inode}, Cgroup: "kubepods/podp"}}
}

// TestTheGuardNeedsNoContainerRuntime checks that the namespace is found from the folder
// alone while it exists, by another agent and without an answer.
func TestTheGuardNeedsNoContainerRuntime(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1), alive: host.NetNS{Dev: 4, Inode: 1}}
	if err := c.places(t, n).Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	c.err, c.asked = host.ErrUnavailable, 0
	later := c.places(t, n)
	if _, id, err := later.NetNS(t.Context(), inPod); err != nil || id != c.place.NetNSID || c.asked != 0 {
		t.Errorf("got %v, %v and %d questions, want %v and none", id, err, c.asked, c.place.NetNSID)
	}
	c.alive = host.NetNS{}
	if _, _, err := later.NetNS(t.Context(), inPod); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("the namespace is gone: got %v, want ErrUnavailable", err)
	}
}

// TestALateAnswerReplacesNoNewerOne checks that what the container runtime says of a former
// Pod after it has named the present one changes nothing: neither what is known nor what is
// on disk.
func TestALateAnswerReplacesNoNewerOne(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	answers := make(chan bundleruntime.Place)
	asked := make(chan struct{})
	late := false
	places := func() *bundleruntime.Places {
		return newPlaces(t, bundleruntime.PlacesOptions{
			State: n.dir, Choices: n.set.Choices,
			Identify: func(string) (host.NetNS, error) { return host.NetNS{Dev: 4, Inode: 2}, nil },
			Locate: func(context.Context, host.Owner) (bundleruntime.Place, error) {
				if !late {
					return pod(2), nil
				}
				late = false
				close(asked)
				return <-answers, nil
			},
		})
	}
	p := places()
	late = true
	ended := make(chan error, 1)
	go func() { ended <- p.Refresh(t.Context(), inPod) }()
	<-asked
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	former := pod(1)
	former.UID = "former"
	answers <- former
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := p.PodOf(inPod.UID); got != "p" {
		t.Errorf("got Pod %q, want p", got)
	}
	if replaced, err := p.TakeReplaced(inPod.UID); err != nil || replaced {
		t.Errorf("replaced: got %t, %v, want false", replaced, err)
	}
	if _, id, err := places().NetNS(t.Context(), inPod); err != nil || id != pod(2).NetNSID {
		t.Errorf("the next agent: got %v, %v, want %v", id, err, pod(2).NetNSID)
	}
}

func TestAReplacedNamespaceIsReportedOnce(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1)}
	p := c.places(t, n)
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
	take("another", c.places(t, n), true) // and another agent report it
	take("reported", c.places(t, n), false)
	c.place = pod(3)
	c.place.UID = "another"
	take("another Pod, with which the machine ended", c.places(t, n), false)
	p, c.place.NetNSID.Inode = c.places(t, n), 4
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	repair := n.breakDisk(t)
	if got, err := p.TakeReplaced(inPod.UID); !got || err == nil {
		t.Errorf("on a broken disk: got %t, %v, want true and an error", got, err)
	}
	repair()
	take("after the repair", p, false)
	take("after the repair, by another agent", c.places(t, n), false)
}

// TestTheMachineIsInThePodThatParentNamed checks that this agent and the next one know in
// which Pod the machine was started, and how much of the Pod's memory is the bundle's.
func TestTheMachineIsInThePodThatParentNamed(t *testing.T) {
	n := newNode(t, bundleruntime.Pod)
	c := &cluster{place: pod(1)}
	p := c.places(t, n)
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	c.place.UID, c.place.Cgroup = "another", "kubepods/podanother"
	if got, err := p.Parent(t.Context(), inPod.ID()); err != nil || got != "kubepods/podanother" {
		t.Errorf("cgroup: got %q, %v, want that of the present Pod", got, err)
	}
	for _, p := range []*bundleruntime.Places{p, c.places(t, n)} {
		if got := p.StartedIn(inPod.UID); got != "another" {
			t.Errorf("Pod of the start: got %q, want another", got)
		}
	}
	c.place.UID = "a third one"
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	if got := c.places(t, n).StartedIn(inPod.UID); got != "another" {
		t.Errorf("Pod of the start, in a later Pod: got %q, want another", got)
	}
	folder, err := n.dir.Folder(inPod.UID)
	if err == nil {
		err = folder.WriteRecord(&state.Record{BundleMemory: 1 << 20})
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := p.BundleMemory(inPod.ID()); got != 1<<20 {
		t.Errorf("the bundle's memory: got %d, want 1 MiB", got)
	}
	if got := p.BundleMemory("trial"); got != 0 {
		t.Errorf("of no Bottle: got %d, want 0", got)
	}
}

// TestRulesAreCopiedIntoThePod checks that a Pod gets its rules, also when its volume is new,
// and that without a Pod nothing fails. The Bottle's folder on the disk is not asked.
func TestRulesAreCopiedIntoThePod(t *testing.T) {
	require.Root(t)
	n := newNode(t, bundleruntime.Pod)
	volume := t.TempDir()
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal("mount a tmpfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) })
	c := &cluster{place: pod(1)}
	p := c.places(t, n)
	if err := p.Publish(inPod.UID, []byte("rules")); err != nil {
		t.Errorf("without a Pod: got %v, want nil", err)
	}
	c.place.Rules = volume
	if err := p.Refresh(t.Context(), inPod); err != nil {
		t.Fatal(err)
	}
	want := func(text string) {
		t.Helper()
		if err := p.Publish(inPod.UID, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(volume, "egress.json")); err != nil || string(got) != text {
			t.Errorf("got %q, %v, want %q", got, err, text)
		}
		if got, copied := p.Published(inPod.UID); string(got) != text || !copied {
			t.Errorf("published: got %q, %t, want %q, true", got, copied, text)
		}
	}
	if got, copied := p.Published(inPod.UID); got != nil || !copied {
		t.Errorf("published to a new Pod: got %q, %t, want nothing, true", got, copied)
	}
	if got, copied := p.Published(inDocker.UID); got != nil || copied {
		t.Errorf("published to a container of docker: got %q, %t, want nothing, false", got, copied)
	}
	want("rules")
	if err := os.Remove(filepath.Join(volume, "egress.json")); err != nil { // as in a new Pod
		t.Fatal(err)
	}
	want("rules")
	want("fewer")
	folder, err := n.dir.Folder(inPod.UID)
	if err != nil {
		t.Fatal(err)
	}
	for _, ca := range [][]byte{[]byte("certificates"), nil} {
		if err := errors.Join(folder.WriteUpstreamCA(ca), p.PublishUpstreamCA(inPod.UID)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(volume, "upstream-ca.pem"))
		if string(got) != string(ca) || (err == nil) != (ca != nil) {
			t.Errorf("upstream authorities: got %q, %v, want %q", got, err, ca)
		}
	}
	if err := unix.Unmount(volume, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(inPod.UID, nil); err == nil {
		t.Error("on a disk: got nil, want an error")
	}
	if entries, _ := os.ReadDir(volume); len(entries) > 0 {
		t.Errorf("on a disk: got %d files, want none", len(entries))
	}
}
