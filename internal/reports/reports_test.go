// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/supervise"
)

const uid = "1a2b3c4d-0000-4000-8000-000000000000"

type world struct {
	*Watch
	clock    *clocktesting.FakeClock
	fake     *hosttest.Exchanges
	out      string
	requests int
}

func newWorld(t *testing.T) *world {
	w := &world{clock: clocktesting.NewFakeClock(time.Unix(1_000_000, 0)), fake: hosttest.NewExchanges(nil, t.TempDir())}
	w.Watch = New(w.fake, w.clock, func(string) { w.requests++ })
	x, err := w.fake.EnsureExchange(t.Context(), uid, "")
	if err != nil {
		t.Fatal(err)
	}
	w.out = x.Out
	w.Follow(uid, Subject{Out: x.Out, Start: "s"})
	return w
}

// want looks once, and checks the number of requests so far.
func (w *world) want(t *testing.T, what string, n int) {
	t.Helper()
	w.Look(context.Background())
	if w.requests != n {
		t.Errorf("%s: got %d requests, want %d", what, w.requests, n)
	}
}

func TestReports(t *testing.T) {
	w := newWorld(t)
	w.want(t, "no report", 0)
	w.fake.Put(uid, supervise.Report{Start: "another", Final: true})
	w.want(t, "of another start", 0)
	w.fake.Put(uid, supervise.Report{Start: "s"})
	w.want(t, "the first", 1)
	w.want(t, "the same", 1)
	for n := range int32(30) {
		w.clock.Step(time.Second)
		w.fake.Put(uid, supervise.Report{Start: "s", Restarts: n})
		w.want(t, "within a minute", 1)
	}
	w.clock.Step(patience)
	w.want(t, "after a minute", 2)
	w.fake.Put(uid, supervise.Report{Start: "s", Final: true})
	w.want(t, "a final one", 3)
	for range 10 {
		w.fake.Put(uid, supervise.Report{Start: "s", Final: true})
		w.want(t, "more final ones", 3)
	}
	w.Follow(uid, Subject{Out: w.out, Start: "t"})
	w.fake.Put(uid, supervise.Report{Start: "t", Final: true})
	w.want(t, "of the next start", 4)
	w.Forget(uid)
	w.fake.Put(uid, supervise.Report{Start: "t", Final: true})
	w.want(t, "forgotten", 4)
}

func TestDeadlines(t *testing.T) {
	w := newWorld(t)
	at := w.clock.Now().Add(time.Hour)
	w.Follow(uid, Subject{Deadline: at})
	w.want(t, "before", 0)
	w.clock.SetTime(at)
	w.want(t, "at the deadline", 1)
	w.want(t, "right after it", 1)
	w.clock.Step(repeat)
	w.want(t, "if nothing came of it", 2)
	w.Follow(uid, Subject{})
	w.clock.Step(repeat)
	w.want(t, "no deadline any more", 2)
}

func TestTheStatusChangesAtMostOnceAMinute(t *testing.T) {
	w := newWorld(t)
	if may, _ := w.MayWrite(uid); !may {
		t.Errorf("the first time: got no, want yes")
	}
	w.clock.Step(patience - time.Second)
	if may, wait := w.MayWrite(uid); may || wait != time.Second {
		t.Errorf("a second too early: got %v, %s, want no and 1s", may, wait)
	}
	w.clock.Step(time.Second)
	if may, _ := w.MayWrite(uid); !may {
		t.Errorf("after a minute: got no, want yes")
	}
}

// The report of a machine that has just started is noticed sooner than others.
func TestYoungMachines(t *testing.T) {
	for start, c := range map[string]struct{ age, within time.Duration }{
		"young": {0, shortInterval}, "old": {youth, interval + shortInterval},
	} {
		synctest.Test(t, func(t *testing.T) {
			fake := hosttest.NewExchanges(nil, t.TempDir())
			x, err := fake.EnsureExchange(t.Context(), uid, "")
			if err != nil {
				t.Fatal(err)
			}
			var noticed time.Time
			w := New(fake, clock.RealClock{}, func(string) {
				if noticed.IsZero() {
					noticed = time.Now()
				}
			})
			w.Follow(uid, Subject{Out: x.Out, Start: start})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- w.Start(ctx) }()
			time.Sleep(c.age + 2*shortInterval + 1) // just after a look at all
			reported := time.Now()
			fake.Put(uid, supervise.Report{Start: start, Final: true})
			time.Sleep(time.Minute)
			cancel()
			<-ended
			took := noticed.Sub(reported)
			if noticed.IsZero() || took > c.within || start == "old" && took <= shortInterval {
				t.Errorf("%s: noticed after %s, want at most %s, and less only if it is young", start, took, c.within)
			}
		})
	}
}
