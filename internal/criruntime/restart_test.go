// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

// TestARestartIsNotReported checks that a restart of the runtime is not reported as an outage,
// and that its Pods are looked up again afterwards.
func TestARestartIsNotReported(t *testing.T) {
	f, r := startFake(t)
	useFakeNS(r)
	r.silence = time.Hour
	f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/a")
	told := make(chan string, 100)
	defer r.watchers.Add(func(uid string) { told <- uid })()
	run(t, r)
	await.True(t, "events arrive", r.cache.isWatched)
	if uid := <-told; uid != "" {
		t.Errorf("at first: got a change of %q, want of all", uid)
	}
	f.stop()
	await.True(t, "the loss is noticed", func() bool { return !r.cache.isWatched() })
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

	await.True(t, "events arrive again", r.cache.isWatched)
	f.stop()
	await.True(t, "the loss is noticed again", func() bool { return !r.cache.isWatched() })
	if err := r.Ping(t.Context()); !errors.Is(err, host.ErrRestarting) {
		t.Errorf("ping: got %v, want ErrRestarting", err)
	}
	r.silentFor(2 * r.silence)
	if _, err := r.Networks().InspectNetwork(t.Context(), host.Owner{UID: "another"}); !errors.Is(err, host.ErrUnavailable) || errors.Is(err, host.ErrRestarting) {
		t.Errorf("after a long silence: got %v, want ErrUnavailable, not ErrRestarting", err)
	}
	if err := r.Answers(t.Context()); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("the fact, after a long silence: got %v, want ErrUnavailable", err)
	}
}

// silentFor makes the first call without an answer be this old.
func (r *Runtime) silentFor(d time.Duration) {
	r.pulse.mu.Lock()
	defer r.pulse.mu.Unlock()
	r.pulse.since = time.Now().Add(-d)
}

// TestNobodyWaitsLong checks that a call of a runtime that is silent ends soon, and that the
// calls after it do not wait at all.
func TestNobodyWaitsLong(t *testing.T) {
	f, r := startFake(t)
	r.silence, r.patience = time.Hour, 2*retryPause
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.stop()
	for i, most := range []int{3, 1} {
		attempts := 0
		_, err := call(t.Context(), r.reading("list Pods"), func(context.Context) (int, error) {
			attempts++
			return 0, status.Error(codes.Unavailable, "no connection")
		})
		if !errors.Is(err, host.ErrUnavailable) || !errors.Is(err, host.ErrRestarting) {
			t.Errorf("got %v, want ErrRestarting, which is an ErrUnavailable", err)
		}
		if attempts == 0 || attempts > most {
			t.Errorf("call %d: got %d attempts, want at most %d", i, attempts, most)
		}
		r.silentFor(r.patience)
	}
}

// TestOneCallWaitsForASilentRuntime checks that of all calls of a runtime that takes them but
// does not answer, only one waits, and that all are made again after an answer.
func TestOneCallWaitsForASilentRuntime(t *testing.T) {
	_, r := startFake(t)
	r.silence, r.patience = time.Hour, time.Minute
	if err := r.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.silentFor(r.patience)
	asked, answer, first := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := call(t.Context(), r.reading("list Pods"), func(context.Context) (int, error) {
			close(asked)
			<-answer
			return 0, nil
		})
		first <- err
	}()
	<-asked
	for range 3 {
		if _, err := r.Pod(t.Context(), testOwner); !errors.Is(err, host.ErrUnavailable) || !errors.Is(err, host.ErrRestarting) {
			t.Errorf("a call beside it: got %v, want ErrRestarting, which is an ErrUnavailable", err)
		}
		if err := r.Ping(t.Context()); !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("a ping beside it: got %v, want ErrUnavailable", err)
		}
	}
	close(answer)
	if err := <-first; err != nil {
		t.Errorf("got %v, want nil", err)
	}
	if _, err := r.Networks().InspectNetwork(t.Context(), testOwner); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("after the answer: got %v, want the runtime's", err)
	}
	r.silentFor(r.patience)
	if err := r.Ping(t.Context()); err != nil {
		t.Errorf("the next call of a silent runtime: got %v, want it made", err)
	}
}

// TestOneBadObject checks that a call ends if the runtime does not answer for one object
// while it answers all else, and that it does not count as a restart.
func TestOneBadObject(t *testing.T) {
	_, r := startFake(t)
	r.silence, r.patience = time.Hour, 2*retryPause
	attempts := 0
	_, err := call(t.Context(), r.reading("inspect a Pod"), func(ctx context.Context) (int, error) {
		if attempts++; attempts > 20 {
			return 0, errTest
		}
		if err := r.Ping(ctx); err != nil {
			t.Error(err)
		}
		return 0, status.Error(codes.Unavailable, "the shim does not answer")
	})
	if !errors.Is(err, host.ErrUnavailable) || errors.Is(err, host.ErrRestarting) {
		t.Errorf("after %d attempts: got %v, want ErrUnavailable, not ErrRestarting", attempts, err)
	}
}

// TestOneHungObject is TestOneBadObject for an object for which there is no answer at all.
func TestOneHungObject(t *testing.T) {
	_, r := startFake(t)
	r.silence, r.patience = time.Hour, 0
	q := r.reading("inspect a Pod")
	q.limit = 500 * time.Millisecond
	_, err := call(t.Context(), q, func(ctx context.Context) (int, error) {
		if err := r.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		return 0, status.FromContextError(ctx.Err()).Err()
	})
	if !errors.Is(err, host.ErrUnavailable) || errors.Is(err, host.ErrRestarting) {
		t.Errorf("got %v, want ErrUnavailable, not ErrRestarting", err)
	}
}

// TestTheSilenceBeginsWithAQuestion checks that a runtime that nobody has asked for a long
// time may be restarted, too.
func TestTheSilenceBeginsWithAQuestion(t *testing.T) {
	f, r := startFake(t)
	r.silence, r.patience = time.Minute, 0
	r.pulse.heard = time.Now().Add(-time.Hour)
	f.stop()
	if _, err := r.Pod(t.Context(), testOwner); !errors.Is(err, host.ErrRestarting) {
		t.Errorf("got %v, want ErrRestarting", err)
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
	await.True(t, "what has no CRI answers", func() bool { return errors.Is(r.Ping(t.Context()), host.ErrUnsupported) })
	first.start(t)
	await.True(t, "the container runtime is found", func() bool { return r.Ping(t.Context()) == nil })
	if got := r.Socket(); got != "unix://"+first.socket {
		t.Errorf("got %s, want the first", got)
	}
	first.stop() // and its socket is gone
	second.fail(nil)
	if err := r.Ping(t.Context()); !errors.Is(err, host.ErrUnavailable) || r.Socket() != "unix://"+first.socket {
		t.Errorf("while it is restarted: got %v at %s, want ErrUnavailable at the first", err, r.Socket())
	}
}

// TestTheSocketThatAnsweredIsKept checks that an answer chooses the socket that it came from,
// even if another one has been dialed since.
func TestTheSocketThatAnsweredIsKept(t *testing.T) {
	s, err := newSocket([]string{"unix:///first", "unix:///second"})
	if err != nil {
		t.Fatal(err)
	}
	s.path = "/second"
	s.found("/first")
	if got := s.address(); got != "unix:///first" {
		t.Errorf("got %s, want unix:///first", got)
	}
	s.found("/unknown")
	if got := s.address(); got != "unix:///first" {
		t.Errorf("after an answer from elsewhere: got %s, want still unix:///first", got)
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
	// The right one is the last, because the test ends with the first that is ended.
	f.containers = []*cri.ContainerStatus{{Id: "1", State: running}, {Id: "3", State: exited}, {Id: "4", State: running}, {Id: "2", State: running}}
	f.owners = map[string]string{"1": "ready", "2": "lost", "3": "lost", "4": "other"}
	run(t, r)
	await.True(t, "the bundle is ended", func() bool {
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
