// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/await"
)

// runClock moves the world's clock on whenever somebody waits for it, until the test
// ends.
func (w *world) runClock() {
	done := make(chan struct{})
	var runs sync.WaitGroup
	runs.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			if w.clock.HasWaiters() {
				w.clock.Step(time.Second)
			}
		}
	})
	w.t.Cleanup(func() { close(done); runs.Wait() })
}

// The registry of the test allows six blobs a minute. An image of 12 layers arrives, and
// each blob is fetched once.
func TestRateLimitedPullFinishes(t *testing.T) {
	w := newWorld(t)
	var contents []string
	for i := range 12 {
		contents = append(contents, noise(byte(i), 10<<10))
	}
	img := newImage(t, "amd64", contents...)
	w.reg.push(t, "demo:1", img)
	var mu sync.Mutex
	var served []time.Time
	limited := 0
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		now := w.clock.Now()
		if n := len(served); n >= 6 && now.Sub(served[n-6]) < time.Minute {
			limited++
			rw.Header().Set("Retry-After", fmt.Sprint(int((time.Minute-now.Sub(served[n-6]))/time.Second)+1))
			rw.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		served = append(served, now)
		return false
	})
	w.runClock()
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
	mu.Lock()
	defer mu.Unlock()
	if len(served) != 13 || limited == 0 || limited > 12 { // the config, and 12 layers
		t.Errorf("got %d blobs sent and %d refused, want each blob sent once and few refusals", len(served), limited)
	}
}

// Any request of a pull may be answered with a time to wait.
func TestRetryAfterAtEachRequest(t *testing.T) {
	for hop, at := range hops {
		for form, ask := range map[string]func(h http.Header, now time.Time) int{
			"seconds": func(h http.Header, _ time.Time) int {
				h.Set("Retry-After", "20")
				return http.StatusTooManyRequests
			},
			"a date": func(h http.Header, _ time.Time) int { // of a server whose clock is wrong
				date := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
				h.Set("Date", date.Format(http.TimeFormat))
				h.Set("Retry-After", date.Add(20*time.Second).Format(http.TimeFormat))
				return http.StatusServiceUnavailable
			},
		} {
			t.Run(form+" at "+hop, func(t *testing.T) {
				w := newWorld(t)
				img := newImage(t, "amd64", "one")
				w.reg.push(t, "demo:1", indexOf(img))
				var mu sync.Mutex
				var first, second time.Time
				inFlight := false
				w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
					mu.Lock()
					defer mu.Unlock()
					if now := w.clock.Now(); at(r) {
						switch {
						case first.IsZero():
							first = now
							rw.WriteHeader(ask(rw.Header(), now))
							return true
						case !inFlight && now.Equal(first) && hop == "the first request":
							// go-containerregistry sends a second one if the first gets
							// no answer for a moment, as on a busy machine.
							inFlight = true
							rw.WriteHeader(ask(rw.Header(), now))
							return true
						case second.IsZero():
							second = now
						}
					}
					return token(w.reg, rw, r)
				})
				req := w.request("demo:1", "a")
				w.pulling(req)
				await.True(t, "the progress to tell of the wait", func() bool {
					return strings.Contains(w.pulling(req).Message, "pulling image "+req.Reference+": the registry asks to wait until ")
				})
				w.runClock()
				wantImage(t, w.want(req).Path, img)
				if got := second.Sub(first); got < 20*time.Second || got > 40*time.Second {
					t.Errorf("got the next request after %s, want it after 20 s", got)
				}
			})
		}
	}
}

// If the registry asks to wait longer than the pull may last, the pull fails at once, and
// the registry is left alone until then.
func TestRetryAfterBeyondTimeout(t *testing.T) {
	for hop, at := range hops {
		t.Run(hop, func(t *testing.T) {
			w := newWorld(t)
			img := newImage(t, "amd64", "one")
			w.reg.push(t, "demo:1", indexOf(img))
			asked := 0
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if !at(r) {
					return token(w.reg, rw, r)
				}
				asked++
				rw.Header().Set("Retry-After", "3600")
				rw.WriteHeader(http.StatusTooManyRequests)
				fmt.Fprint(rw, `{"errors":[{"code":"TOOMANYREQUESTS","message":"`+strange+`"}]}`)
				return true
			})
			req := w.request("demo:1", "a")
			start := w.clock.Now()
			text := "429 Too Many Requests"
			failed := w.wantFailed(req, text, "asks to wait until "+untilText(start.Add(time.Hour)), "--image-pull-timeout", "the pull is tried again then")
			wantOwnWords(t, hop, failed)
			if failed.Until.Before(start.Add(time.Hour)) {
				t.Errorf("got the next attempt after %s, want it after an hour", failed.Until.Sub(start))
			}
			if asked != 1 {
				t.Errorf("got %d requests, want the registry left alone after the first", asked)
			}
			w.clock.Step(time.Hour - time.Second)
			w.wantFailed(req)
			if asked != 1 {
				t.Errorf("before the hour is over: got %d requests, want none", asked-1)
			}
			w.clock.Step(time.Second)
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool { return token(w.reg, rw, r) })
			wantImage(t, w.want(req).Path, img)
		})
	}
}

// The sum of all waits is bounded by the timeout of the pull.
func TestWaitsAreBounded(t *testing.T) {
	for name, path := range map[string]string{"resolving": "/manifests/", "fetching": "/blobs/"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
			var mu sync.Mutex
			asked := 0
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, path) {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				asked++
				rw.Header().Set("Retry-After", "600")
				rw.WriteHeader(http.StatusServiceUnavailable)
				return true
			})
			w.runClock()
			start := w.clock.Now()
			failed := w.wantFailed(w.request("demo:1", "a"), "asks to wait until")
			if got := failed.Until.Sub(start); got > DefaultPullTimeout+700*time.Second {
				t.Errorf("got the next attempt after %s, want not much more than %s", got, DefaultPullTimeout)
			}
			mu.Lock()
			defer mu.Unlock()
			if asked < 2 || asked > 4 {
				t.Errorf("got %d requests, want one for each 10 minutes", asked)
			}
		})
	}
}

// A pull that waits for long gives its slot to others, and gets one again.
func TestWaitingPullGivesItsSlotBack(t *testing.T) {
	for name, path := range map[string]string{"resolving": "/manifests/", "fetching": "/blobs/"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.MaxPulls = 1 })
			w.Store.resolveSlots = newSlots(1)
			img, other := newImage(t, "amd64", "one"), newImage(t, "amd64", "two")
			w.reg.push(t, "limited:1", img)
			w.reg.push(t, "other:1", other)
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/v2/limited"+path) {
					return false
				}
				rw.Header().Set("Retry-After", "600")
				rw.WriteHeader(http.StatusTooManyRequests)
				return true
			})
			req := w.request("limited:1", "a")
			await.True(t, "the pull to wait", func() bool { return strings.Contains(w.pulling(req).Message, "asks to wait until") })
			wantImage(t, w.want(w.request("other:1", "b")).Path, other)
			w.reg.setFault(nil)
			w.clock.Step(600 * time.Second)
			wantImage(t, w.want(req).Path, img)
		})
	}
}

// If another source does not ask to wait, it is tried with the usual pauses.
func TestRetryAfterOfMirrorDoesNotDelayRegistry(t *testing.T) {
	mirror := newServer(t)
	w := newWorld(t)
	w.Close()
	w.o.Mirrors = []string{w.reg.host() + "=" + mirror.host()}
	w.open()
	mirror.setFault(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Retry-After", "7200")
		rw.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	start := w.clock.Now()
	failed := w.wantFailed(w.request("absent:1", "a"), "404", "asks to wait until")
	if got := failed.Until.Sub(start); got != firstBackoff {
		t.Errorf("got the next attempt after %s, want it after %s", got, firstBackoff)
	}
	w.reg.setFault(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Retry-After", "3600")
		rw.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	w.clock.Step(firstBackoff)
	start = w.clock.Now()
	failed = w.wantFailed(w.request("absent:1", "a"), "asks to wait until")
	if got := failed.Until.Sub(start); got != time.Hour {
		t.Errorf("both ask: got the next attempt after %s, want it after the shorter time, 1h", got)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	later := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for name, tt := range map[string]struct {
		status      int
		value, date string
		want        time.Duration
		ok          bool
	}{
		"seconds":        {status: 429, value: "10", want: 10 * time.Second, ok: true},
		"unavailable":    {status: 503, value: "10", want: 10 * time.Second, ok: true},
		"zero":           {status: 429, value: "0", ok: true},
		"too much":       {status: 429, value: "99999999", want: maxRetryAfter, ok: true},
		"beyond 64 bits": {status: 429, value: strings.Repeat("9", 30), want: maxRetryAfter, ok: true},
		"a date":         {status: 429, value: later(time.Minute), want: time.Minute, ok: true},
		"its own clock":  {status: 429, value: later(time.Minute), date: later(50 * time.Second), want: 10 * time.Second, ok: true},
		"past":           {status: 429, value: later(-time.Minute), ok: true},
		"far future":     {status: 503, value: later(1e6 * time.Hour), want: maxRetryAfter, ok: true},
		"negative":       {status: 429, value: "-5"},
		"a fraction":     {status: 429, value: "1.5"},
		"text":           {status: 429, value: "soon"},
		"nothing":        {status: 429},
		"other status":   {status: 500, value: "10"},
		"success":        {status: 200, value: "10"},
	} {
		resp := &http.Response{StatusCode: tt.status, Header: http.Header{}}
		resp.Header.Set("Retry-After", tt.value)
		resp.Header.Set("Date", tt.date)
		got, ok := retryAfter(resp, now)
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %s %t, want %s %t", name, got, ok, tt.want, tt.ok)
		}
	}
}
