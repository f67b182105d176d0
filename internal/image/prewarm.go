// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// Prewarm pulls the images into the store with the node's own credentials, so
// that the first Bottle does not wait for them. It returns when all of them are
// in the store or can never be pulled, and retries until then. It stops when
// ctx ends. The error covers the references that are invalid.
func (s *Store) Prewarm(ctx context.Context, references []string) error {
	errs := make([]error, len(references))
	var all sync.WaitGroup
	for i, ref := range references {
		all.Go(func() { errs[i] = s.prewarm(ctx, ref) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (s *Store) prewarm(ctx context.Context, reference string) error {
	logged := false
	for {
		// Parse the request again each time: the node's credentials and files
		// may have changed.
		err := s.prewarmOnce(ctx, reference)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, host.ErrInvalid):
			return fmt.Errorf("prewarm: %w", err)
		case ctx.Err() != nil, s.ctx.Err() != nil:
			return err
		}
		until := s.o.Clock.Now().Add(firstBackoff)
		var failed *host.PullFailed
		if errors.As(err, &failed) {
			until = failed.Until
		}
		if !logged {
			logged = true
			s.o.Log.Info("Failed to prewarm an image, will retry", "image", reference, "reason", err.Error())
		}
		if err := s.sleepUntil(ctx, until); err != nil {
			return err
		}
	}
}

// prewarmOnce returns nil if the image is in the store.
func (s *Store) prewarmOnce(ctx context.Context, reference string) error {
	req, err := s.parseRequest(host.ImageRequest{Reference: reference})
	if err != nil {
		return err
	}
	_, j, err := s.answer(req)
	if j == nil {
		return err
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.ctx.Err() != nil {
		return errClosed
	}
	return j.err
}

func (s *Store) sleepUntil(ctx context.Context, until time.Time) error {
	timer := s.o.Clock.NewTimer(until.Sub(s.o.Clock.Now()))
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-s.ctx.Done():
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
