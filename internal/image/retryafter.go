// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"k8s.io/utils/clock"
)

const (
	// minRetryAfter and lastMinRetryAfter bound the wait from below, however little a
	// server asks for: the first wait for a request is at least minRetryAfter, and each
	// further one at least twice as long as the one before, up to lastMinRetryAfter.
	minRetryAfter     = time.Second
	lastMinRetryAfter = 16 * time.Second
	// maxRetryAfter bounds the wait from above. Docker Hub counts pulls over six hours.
	maxRetryAfter = 6 * time.Hour
)

// waitingTransport waits when a server asks for it (429 or 503 with Retry-After), and
// then sends the request again. It serves one attempt to pull: until the time that a
// host named, it sends nothing else to that host.
type waitingTransport struct {
	inner http.RoundTripper
	clock clock.PassiveClock
	// wait waits until then. It returns false at once if the pull may not last
	// that long.
	wait func(ctx context.Context, until time.Time) (bool, error)
	turn chan struct{} // has a buffer of one: only one request waits at a time

	mu     sync.Mutex
	asked  map[string]*askedToWait // by host
	waited time.Duration           // the sum of all waits
}

// askedToWait means that a server asked to be left alone until a time that is later
// than the pull may last.
type askedToWait struct {
	until  time.Time
	answer *transport.Error
}

func (e *askedToWait) Error() string {
	return fmt.Sprintf("status %d, asked to wait until %s", e.answer.StatusCode, e.until)
}

func newWaitingTransport(inner http.RoundTripper, c clock.PassiveClock, wait func(ctx context.Context, until time.Time) (bool, error)) *waitingTransport {
	return &waitingTransport{inner: inner, clock: c, wait: wait, turn: make(chan struct{}, 1), asked: map[string]*askedToWait{}}
}

func (t *waitingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	least := minRetryAfter
	for {
		if err := t.waitForHost(req); err != nil {
			return nil, err
		}
		resp, err := t.inner.RoundTrip(req)
		if err != nil {
			return nil, &partyError{err, partyOf(req)}
		}
		resp.Body = &partyBody{resp.Body, partyOf(req)}
		now := t.clock.Now()
		delay, ok := retryAfter(resp, now)
		if !ok || !resendable(req) {
			return resp, nil
		}
		answer := answerOf(resp)
		t.mu.Lock()
		t.asked[req.URL.Host] = &askedToWait{until: now.Add(max(delay, least)), answer: answer}
		t.mu.Unlock()
		least = min(2*least, lastMinRetryAfter)
		if req, err = again(req); err != nil {
			return nil, err
		}
	}
}

// waitForHost waits as long as the host asked for. It returns *askedToWait if the pull
// may not last that long.
func (t *waitingTransport) waitForHost(req *http.Request) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-req.Context().Done():
		return req.Context().Err()
	}
	for {
		t.mu.Lock()
		asked := t.asked[req.URL.Host]
		t.mu.Unlock()
		start := t.clock.Now()
		if asked == nil || !start.Before(asked.until) {
			return nil
		}
		ok, err := t.wait(req.Context(), asked.until)
		if err != nil {
			return err
		}
		if !ok {
			return asked
		}
		t.mu.Lock()
		t.waited += t.clock.Since(start)
		t.mu.Unlock()
	}
}

// totalWait returns how long the requests have waited so far.
func (t *waitingTransport) totalWait() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waited
}

// answerOf reads the error from an answer, and closes it.
func answerOf(resp *http.Response) *transport.Error {
	defer resp.Body.Close()
	answer := &transport.Error{StatusCode: resp.StatusCode, Request: resp.Request}
	if resp.Request == nil || resp.Request.Method != http.MethodHead {
		if err, ok := transport.CheckError(resp).(*transport.Error); ok { //nolint:errorlint // CheckError returns this type, or the error of a read
			answer = err
		}
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, copyBuffer)) // so that the connection can be used again
	return answer
}

// resendable reports whether the request can be sent again.
func resendable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// again returns a copy of the request with its body from the start.
func again(req *http.Request) (*http.Request, error) {
	req = req.Clone(req.Context())
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		req.Body = body
	}
	return req, nil
}

// retryAfter returns how long the server asks to wait, at most maxRetryAfter. It
// returns false if it does not ask.
func retryAfter(resp *http.Response, now time.Time) (time.Duration, bool) {
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
	default:
		return 0, false
	}
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	// The server's own clock may be wrong, or the node's.
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = date
	}
	return min(max(0, at.Sub(now)), maxRetryAfter), true
}
