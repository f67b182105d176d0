// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

// request says how to call the runtime.
type request struct {
	r *Runtime
	// what describes the action and its object, for errors.
	what  string
	limit time.Duration // of one attempt
	// again says that the call may be repeated while the runtime is probably being restarted.
	again bool
}

// reading returns a request that only reads.
func (r *Runtime) reading(what string) request {
	return request{r: r, what: what, limit: readTimeout, again: true}
}

// retryPause is the pause between two attempts of a request.
const retryPause = 200 * time.Millisecond

// call calls the runtime. While the runtime does not answer and is probably being restarted,
// call repeats the attempt for r.patience at most: other Bottles wait for the caller. Its
// error is then also an ErrRestarting, unless the runtime has answered other calls meanwhile.
// Once the runtime has been silent for that long, only one caller at a time waits for it.
func call[T any](ctx context.Context, q request, f func(context.Context) (T, error)) (T, error) {
	var zero T
	release, admitted := q.r.pulse.admit(q.r.patience)
	if !admitted {
		return zero, fmt.Errorf("%s: %w", q.what, q.r.withRestarting(errSilent))
	}
	defer release()
	var failed time.Time // when the first attempt did
	for began := time.Now(); ; {
		attempt := time.Now()
		// If the runtime answers other calls, only this object fails: that is no restart.
		others := !failed.IsZero() && q.r.pulse.answeredAfter(failed)
		inner, cancel := context.WithTimeout(ctx, q.limit)
		out, err := f(inner)
		cancel()
		if err == nil {
			q.r.pulse.answered()
			return out, nil
		}
		if ctx.Err() != nil {
			return zero, fmt.Errorf("%s: %w", q.what, ctx.Err()) // it says nothing about the runtime
		}
		err = fmt.Errorf("%s: %w", q.what, withKind(err))
		if !errors.Is(err, host.ErrUnavailable) {
			q.r.pulse.answered()
			return zero, err
		}
		silent := q.r.pulse.unanswered(attempt)
		others = others || errors.Is(inner.Err(), context.DeadlineExceeded) && q.r.pulse.answeredAfter(attempt)
		if failed.IsZero() {
			failed = time.Now()
		}
		if !q.again || !q.r.restarting() || max(silent, time.Since(began)) >= q.r.patience {
			if !others {
				err = q.r.withRestarting(err)
			}
			return zero, err
		}
		select {
		case <-ctx.Done():
			return zero, err
		case <-time.After(retryPause):
		}
	}
}

// errSilent means that the runtime was not asked, because another call waits for it.
var errSilent = fmt.Errorf("%w: no answer to an earlier call", host.ErrUnavailable)

// withRestarting makes err an ErrRestarting, too, if the runtime is probably being restarted.
func (r *Runtime) withRestarting(err error) error {
	if r.restarting() {
		return fmt.Errorf("%w (%w)", err, host.ErrRestarting)
	}
	return err
}

// withKind adds the port's error kind to an error of the runtime. The runtime's text is
// shortened, because it may quote what a tenant wrote.
func withKind(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer", host.ErrUnavailable)
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := printable(s.Message(), 300)
	switch s.Code() {
	case codes.NotFound:
		return fmt.Errorf("%w: %s", host.ErrNotFound, text)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("%w: %s", host.ErrUnavailable, text)
	case codes.Unimplemented:
		return fmt.Errorf("%w: %s", host.ErrUnsupported, text)
	}
	// Some calls of CRI-O have no code for the first, and containerd has none for the second.
	switch {
	case s.Code() == codes.Unknown && strings.Contains(text, "not found"):
		return fmt.Errorf("%w: %s", host.ErrNotFound, text)
	case s.Code() == codes.Unknown && strings.Contains(text, "not initialized yet"):
		return fmt.Errorf("%w: %s", host.ErrUnavailable, text)
	}
	return errors.New(text)
}

// printable returns text as printable ASCII of at most limit characters.
func printable(text string, limit int) string { return egress.Printable(text, limit) }
