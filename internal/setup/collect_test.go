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

// passes is a store that answers each pass with what comes.
type passes struct {
	refused chan struct{}
	answers chan answer
	closed  bool
}

type answer struct {
	got image.Collected
	err error
}

func (p *passes) Refused() <-chan struct{} { return p.refused }

func (p *passes) Close() error {
	p.closed = true
	return nil
}

func (p *passes) Collect(context.Context, func(context.Context) (image.Used, error)) (image.Collected, error) {
	a := <-p.answers
	return a.got, a.err
}

// A refused pull has not to wait for the next look, but then for a pause.
func TestCollectsForARefusedPull(t *testing.T) {
	p := &passes{refused: make(chan struct{}), answers: make(chan answer)}
	clock := clocktesting.NewFakeClock(time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	c := &collector{store: p, clock: clock, log: funcr.New(func(string, string) {}, funcr.Options{})}
	ended := make(chan error)
	go func() { ended <- c.Start(ctx) }()
	p.refused <- struct{}{}
	p.answers <- answer{} // it collects, with the clock where it was
	select {
	case p.refused <- struct{}{}:
		t.Fatal("refused again: got a look at once, want a pause")
	case <-whenPaused(t, clock):
	}
	clock.Step(collectPause)
	p.refused <- struct{}{}
	p.answers <- answer{}
	<-whenPaused(t, clock)
	clock.Step(collectEvery)
	p.answers <- answer{} // without anybody's asking
	cancel()
	if err := <-ended; err != nil || !p.closed {
		t.Errorf("got %v, want the store closed at the end", err)
	}
}

// whenPaused is closed once the collector waits with its ticker and its pause.
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

func TestCollectorSaysWhatChanges(t *testing.T) {
	var said []string
	p := &passes{answers: make(chan answer, 1)}
	c := &collector{store: p, log: funcr.New(func(_, args string) { said = append(said, args) }, funcr.Options{})}
	removed := image.Collected{Archives: 1, Cached: 2, Bytes: 3}
	short := image.Collected{Short: 7}
	const (
		full  = `"level"=0 "msg"="The disk stays fuller than it should, for all images are in use or young" "bytes"=7`
		fine  = `"level"=0 "msg"="The disk is no fuller than it should be any more"`
		gone  = `"level"=0 "msg"="Images that nobody uses were removed" "archives"=1 "cached"=2 "bytes"=3`
		bad   = `"msg"="Images could not be collected" "error"="no answer"`
		worse = `"msg"="Images could not be collected" "error"="no luck"`
	)
	no, luck := errors.New("no answer"), errors.New("no luck")
	for i, step := range []struct {
		answer
		want []string
	}{
		{answer{}, nil},
		{answer{got: short}, []string{full}},
		{answer{got: short}, nil},
		{answer{err: no}, []string{bad}}, // nothing is known: not that it is fine
		{answer{err: no}, nil},
		{answer{got: image.Collected{Short: 8}, err: luck}, []string{worse}},
		{answer{got: removed}, []string{gone, fine}},
		{answer{got: removed}, []string{gone}},
		{answer{got: short, err: no}, []string{bad, full}},
		{answer{}, []string{fine}},
	} {
		said = nil
		p.answers <- step.answer
		c.collect(t.Context())
		if !slices.Equal(said, step.want) {
			t.Errorf("pass %d: got %q, want %q", i, said, step.want)
		}
	}
}
