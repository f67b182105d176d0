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

// call runs one bounded call of the runtime. what describes the action and its object, for
// errors.
func call[T any](ctx context.Context, limit time.Duration, what string, f func(context.Context) (T, error)) (out T, err error) {
	inner, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if out, err = f(inner); err == nil {
		return out, nil
	}
	var zero T
	if ctx.Err() != nil {
		return zero, fmt.Errorf("%s: %w", what, ctx.Err()) // the caller gave up; the runtime may be well
	}
	return zero, fmt.Errorf("%s: %w", what, withKind(err))
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
	if strings.Contains(text, "not found") && s.Code() == codes.Unknown {
		return fmt.Errorf("%w: %s", host.ErrNotFound, text) // some calls of CRI-O have no code for this
	}
	return errors.New(text)
}

// printable returns text as printable ASCII of at most limit characters.
func printable(text string, limit int) string { return egress.Printable(text, limit) }
