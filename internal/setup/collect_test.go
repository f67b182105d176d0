// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	clocktesting "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/image"
)

// fakeStore is a store that answers each collection with the next result.
type fakeStore struct {
	refused chan struct{}
	results chan result
	closed  bool
}

type result struct {
	got image.Collected
	err error
}

func (p *fakeStore) Refused() <-chan struct{} { return p.refused }

func (p *fakeStore) Close() error {
	p.closed = true
	return nil
}

func (p *fakeStore) Collect(context.Context, func(context.Context) (image.Used, error)) (image.Collected, error) {
	r := <-p.results
	return r.got, r.err
}

// A refused pull triggers a collection immediately, unless one has just ended:
// then the pull waits for a pause.
func TestRefusedPullTriggersCollection(t *testing.T) {
	p := &fakeStore{refused: make(chan struct{}), results: make(chan result)}
	clock := clocktesting.NewFakeClock(time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	c := &collector{store: p, clock: clock, log: funcr.New(func(string, string) {}, funcr.Options{})}
	ended := make(chan error)
	go func() { ended <- c.Start(ctx) }()
	p.refused <- struct{}{}
	p.results <- result{} // it collects without the clock moving
	select {
	case p.refused <- struct{}{}:
		t.Fatal("refused again: got a collection immediately, want a pause")
	case <-whenPaused(t, clock):
	}
	clock.Step(collectPause)
	p.refused <- struct{}{}
	p.results <- result{}
	<-whenPaused(t, clock)
	clock.Step(collectInterval)
	p.results <- result{} // without a refused pull
	cancel()
	if err := <-ended; err != nil || !p.closed {
		t.Errorf("got %v, want the store closed at the end", err)
	}
}

// whenPaused returns a channel that is closed once the collector waits for its
// ticker and its pause.
func whenPaused(t *testing.T, clock *clocktesting.FakeClock) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		defer close(out)
		for clock.Waiters() < 2 && t.Context().Err() == nil {
			<-time.After(time.Millisecond)
		}
	}()
	return out
}

func TestCollectorLogsChanges(t *testing.T) {
	var logged []string
	p := &fakeStore{results: make(chan result, 1)}
	c := &collector{store: p, log: funcr.New(func(_, args string) { logged = append(logged, args) }, funcr.Options{})}
	removed := image.Collected{Archives: 1, Cached: 2, Bytes: 3}
	short := image.Collected{Short: 7}
	const (
		full  = `"level"=0 "msg"="The disk is still too full: all remaining images are in use or too new to remove" "bytes"=7`
		fine  = `"level"=0 "msg"="The disk is no longer too full"`
		gone  = `"level"=0 "msg"="Removed unused images" "archives"=1 "cached"=2 "interruptedPulls"=0 "bytes"=3`
		bad   = `"msg"="Could not remove unused images" "error"="no answer"`
		worse = `"msg"="Could not remove unused images" "error"="no permission"`
	)
	noAnswer, noPermission := errors.New("no answer"), errors.New("no permission")
	for i, step := range []struct {
		result
		want []string
	}{
		{result{}, nil},
		{result{got: short}, []string{full}},
		{result{got: short}, nil},
		{result{err: noAnswer}, []string{bad}}, // after an error the state of the disk is unknown
		{result{err: noAnswer}, nil},
		{result{got: image.Collected{Short: 8}, err: noPermission}, []string{worse}},
		{result{got: removed}, []string{gone, fine}},
		{result{got: removed}, []string{gone}},
		{result{got: short, err: noAnswer}, []string{bad, full}},
		{result{}, []string{fine}},
	} {
		logged = nil
		p.results <- step.result
		c.collect(t.Context())
		if !slices.Equal(logged, step.want) {
			t.Errorf("collection %d: got %q, want %q", i, logged, step.want)
		}
	}
}
