// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// Prewarm brings the images into the store with the node's own credentials,
// so that the first Bottle does not wait, and returns when all are there. It
// tries again as long as that may help, and ends with ctx. Its errors are of
// the references that can never be had.
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
	a, err := s.understand(host.ImageRequest{Reference: reference})
	if err != nil {
		return fmt.Errorf("prewarm: %w", err)
	}
	for {
		_, j, err := s.answer(a)
		var failed *host.PullFailed
		switch {
		case j != nil:
			select {
			case <-j.done:
				if j.err == nil && s.ctx.Err() == nil {
					return nil
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		case err == nil:
			return nil
		case errors.As(err, &failed):
			if err := s.sleepUntil(ctx, failed); err != nil {
				return err
			}
		default:
			return fmt.Errorf("prewarm: %w", err)
		}
	}
}

func (s *Store) sleepUntil(ctx context.Context, failed *host.PullFailed) error {
	timer := s.o.Clock.NewTimer(failed.Until.Sub(s.o.Clock.Now()))
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
