// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/internal/host"
)

// TestARestartIsNotReported checks that a runtime that is restarted is not reported to be
// down, and that its Pods are looked up again when it is back.
func TestARestartIsNotReported(t *testing.T) {
	f, r := startFake(t)
	ns := newFakeNS()
	ns.set("/run/netns/a", 7)
	r.identify, r.silence = ns.identify, time.Hour
	f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/a")
	run(t, r)
	eventually(t, "events arrive", r.cache.isWatched)
	told := make(chan string, 100)
	defer r.watchers.Add(func(uid string) { told <- uid })()
	f.stop()
	eventually(t, "the loss is noticed", func() bool { return !r.cache.isWatched() })
	select {
	case uid := <-told:
		t.Errorf("while the runtime is down: got a change of %q, want none", uid)
	default:
	}
	if err := r.Answers(t.Context()); err != nil {
		t.Errorf("the fact: got %v, want nil", err)
	}
	if err := r.Ping(t.Context()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("ping: got %v, want ErrUnavailable", err)
	}
	found := make(chan error, 1)
	go func() {
		_, err := r.Pod(t.Context(), testOwner)
		found <- err
	}()
	select {
	case err := <-found:
		t.Errorf("the Pod, while the runtime is down: got %v, want no answer yet", err)
		found <- nil
	case <-time.After(3 * retryPause):
	}
	f.start(t)
	if err := <-found; err != nil {
		t.Errorf("the Pod: got %v, want it", err)
	}
	select {
	case uid := <-told:
		if uid != "" {
			t.Errorf("after the restart: got a change of %q, want of all", uid)
		}
	case <-time.After(20 * time.Second):
		t.Error("after the restart: got no change within 20 s, want one of all")
	}

	eventually(t, "events arrive again", r.cache.isWatched)
	f.stop()
	eventually(t, "the loss is noticed again", func() bool { return !r.cache.isWatched() })
	long := time.Now().Add(-2 * r.silence)
	r.heard.Store(&long)
	if _, err := r.Networks().InspectNetwork(t.Context(), host.Owner{UID: "another"}); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("after a long silence: got %v, want ErrUnavailable", err)
	}
	if err := r.Answers(t.Context()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("the fact, after a long silence: got %v, want ErrUnavailable", err)
	}
}

// TestTheSocketIsChosenAgain checks that a container runtime that starts later than the
// agent is found, also if something else listens at a socket of the list, and that it stays
// chosen.
func TestTheSocketIsChosenAgain(t *testing.T) {
	first, second := &fakeRuntime{socket: filepath.Join(t.TempDir(), "1")}, &fakeRuntime{socket: filepath.Join(t.TempDir(), "2")}
	second.fail(status.Error(codes.Unimplemented, "no CRI"))
	r, err := New(Options{Sockets: []string{"unix://" + first.socket, "unix://" + second.socket}, KubeletDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	if err := r.Ping(t.Context()); !errors.Is(err, host.ErrUnavailable) || r.Socket() != "unix://"+second.socket {
		t.Errorf("none yet: got %v at %s, want ErrUnavailable at the last", err, r.Socket())
	}
	second.start(t)
	t.Cleanup(second.stop)
	eventually(t, "what has no CRI answers", func() bool { return errors.Is(r.Ping(t.Context()), host.ErrUnsupported) })
	first.start(t)
	eventually(t, "the container runtime is found", func() bool { return r.Ping(t.Context()) == nil })
	if got := r.Socket(); got != "unix://"+first.socket {
		t.Errorf("got %s, want the first", got)
	}
	first.stop() // and its socket is gone
	second.fail(nil)
	if err := r.Ping(t.Context()); !errors.Is(err, host.ErrUnavailable) || r.Socket() != "unix://"+first.socket {
		t.Errorf("while it is restarted: got %v at %s, want ErrUnavailable at the first", err, r.Socket())
	}
}

// TestALostSandboxLeavesNoBundle checks that the bundle of a sandbox that was lost is ended
// at once, and nothing else.
func TestALostSandboxLeavesNoBundle(t *testing.T) {
	f, r := startFake(t)
	ended := func(name, id string) *cri.PodSandboxStatus {
		s := sandboxOf(testOwner, name, id)
		s.State = cri.PodSandboxState_SANDBOX_NOTREADY
		return s
	}
	f.put(sandboxOf(testOwner, testOwner.ID(), "ready"), "/run/netns/a")
	f.put(ended(testOwner.ID(), "lost"), "/run/netns/b")
	f.put(ended("of-a-tenant", "other"), "/run/netns/c")
	running, exited := cri.ContainerState_CONTAINER_RUNNING, cri.ContainerState_CONTAINER_EXITED
	f.containers = []*cri.ContainerStatus{{Id: "1", State: running}, {Id: "2", State: running}, {Id: "3", State: exited}, {Id: "4", State: running}}
	f.owners = map[string]string{"1": "ready", "2": "lost", "3": "lost", "4": "other"}
	run(t, r)
	eventually(t, "the bundle is ended", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.stopped) > 0
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.stopped { // the fake does not end it, so it may be asked twice
		if id != "2" {
			t.Errorf("got container %s ended, want only 2", id)
		}
	}
}
