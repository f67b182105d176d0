// SPDX-License-Identifier: Apache-2.0

package jobs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/host"
)

var errBoot = errors.New("boot failed")

// until returns a job that ends with errBoot once release is closed.
func until(release <-chan struct{}) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-release:
			return errBoot
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func nothing() {}

func TestOneJobPerUID(t *testing.T) {
	s := New[error]("start", 4, clock.RealClock{})
	release := make(chan struct{})
	for _, uid := range []string{"a", "b", "a"} {
		s.Start(host.Owner{UID: uid}, until(release), nothing)
	}
	if got := s.Started(); got != 2 {
		t.Errorf("started: got %d, want 2", got)
	}
	close(release)
	s.Wait()
	if err, ok := s.Take("a"); !ok || !errors.Is(err, errBoot) {
		t.Errorf("result: got %v %v, want %v", err, ok, errBoot)
	}
	if _, ok := s.Take("a"); ok {
		t.Errorf("result taken twice: got one, want none")
	}
	if s.Running("a") {
		t.Errorf("running after the end: got true, want false")
	}
}

func TestAgeCountsTheWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[error]("start", 1, clock.RealClock{})
		release := make(chan struct{})
		s.Start(host.Owner{UID: "a"}, until(release), nothing)
		s.Start(host.Owner{UID: "b"}, until(release), nothing)
		time.Sleep(time.Second)
		for _, uid := range []string{"a", "b"} {
			if age, ok := s.Age(uid); !ok || age != time.Second {
				t.Errorf("%s: got %v, %v, want 1s", uid, age, ok)
			}
		}
		close(release)
		s.Wait()
		if age, ok := s.Age("a"); ok {
			t.Errorf("after the end: got %v, want none", age)
		}
	})
}

func TestJobsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[error]("start", 2, clock.RealClock{})
		release := make(chan struct{})
		inside, most := 0, 0
		for _, uid := range []string{"a", "b", "c", "d", "e"} {
			s.Start(host.Owner{UID: uid}, func(ctx context.Context) error {
				s.mu.Lock()
				inside++
				most = max(most, inside)
				s.mu.Unlock()
				defer func() { s.mu.Lock(); inside--; s.mu.Unlock() }()
				return until(release)(ctx)
			}, nothing)
		}
		synctest.Wait()
		if inside != 2 || !s.Running("e") {
			t.Errorf("got %d inside, e running: %v; want 2, true", inside, s.Running("e"))
		}
		close(release)
		s.Wait()
		if most != 2 {
			t.Errorf("most in parallel: got %d, want 2", most)
		}
	})
}

// A namespace with many jobs does not keep the job of another waiting until all
// of them have ended.
func TestNamespacesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New[error]("start", 2, clock.RealClock{})
		next := make(chan struct{})
		var order []string
		job := func(owner host.Owner) {
			s.Start(owner, func(context.Context) error {
				s.mu.Lock()
				order = append(order, owner.Namespace)
				s.mu.Unlock()
				<-next
				return nil
			}, nothing)
		}
		for _, uid := range []string{"1", "2", "3", "4", "5", "6"} {
			job(host.Owner{UID: uid, Namespace: "many"})
		}
		job(host.Owner{UID: "7", Namespace: "one"})
		synctest.Wait()
		next <- struct{}{} // the first job ends
		synctest.Wait()
		if got := strings.Join(order, " "); got != "many many one" {
			t.Errorf("got jobs of %q, want the one of the other namespace as soon as a job ends", got)
		}
		close(next)
		s.Wait()
		if len(order) != 7 {
			t.Errorf("got %d jobs, want all 7", len(order))
		}
	})
}

func TestCancel(t *testing.T) {
	s := New[error]("start", 1, clock.RealClock{})
	release := make(chan struct{})
	ended := make(chan string, 2)
	s.Start(host.Owner{UID: "a"}, until(release), func() { ended <- "a" })
	s.Start(host.Owner{UID: "b"}, until(release), func() { ended <- "b" })
	for _, uid := range []string{"a", "b", "nobody"} { // one of a and b waits for its turn
		if err := s.Cancel(t.Context(), uid); err != nil {
			t.Errorf("%s: got %v, want nil", uid, err)
		}
		if _, ok := s.Take(uid); ok || s.Running(uid) {
			t.Errorf("%s: got result %v, running %v, want neither", uid, ok, s.Running(uid))
		}
	}
	s.Wait()
	if len(ended) != 2 {
		t.Errorf("ended: got %d calls, want 2", len(ended))
	}
}

func TestCancelWaitsNoLongerThanItsContext(t *testing.T) {
	s := New[error]("machine start", 1, clock.RealClock{})
	release := make(chan struct{})
	s.Start(host.Owner{UID: "a"}, func(context.Context) error { <-release; return nil }, nothing)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Cancel(ctx, "a")
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "machine start") {
		t.Errorf("got %v, want the context's error with the kind of job", err)
	}
	close(release)
	s.Wait()
	if _, ok := s.Take("a"); ok {
		t.Errorf("result: got one, want none")
	}
}

func TestBind(t *testing.T) {
	s := New[error]("start", 1, clock.RealClock{})
	ctx, cancel := context.WithCancel(t.Context())
	s.Bind(ctx)
	s.Start(host.Owner{UID: "a"}, until(nil), nothing)
	cancel()
	s.Wait()
	if s.Running("a") {
		t.Errorf("running after the parent ended: got true, want false")
	}
}
