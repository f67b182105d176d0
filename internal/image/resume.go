// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"k8s.io/utils/clock"
)

const (
	// maxStuck bounds the tries in a row after a break that bring no byte.
	maxStuck = 4
	// maxTries bounds all tries of one blob: a registry that breaks off all
	// the time is a failed pull, not an endless one.
	maxTries = 25
)

// resuming reads a blob of a known size and goes on where it was when the
// connection breaks. The caller verifies what it gets.
type resumingReader struct {
	ctx   context.Context // of the pull, which the reader is a part of
	open  func(offset int64) (io.ReadCloser, error)
	size  int64
	clock clock.Clock
	wait  time.Duration // before the second try in a row; then twice as long

	body         io.ReadCloser
	offset       int64
	stuck, tries int
}

func (r *resumingReader) Read(p []byte) (int, error) {
	for {
		if r.offset >= r.size {
			return 0, io.EOF
		}
		err := r.ensureBody()
		if err == nil {
			var n int
			// Never more than was promised, so that a bound on the promise
			// is a bound on what comes.
			n, err = r.body.Read(p[:min(int64(len(p)), r.size-r.offset)])
			r.offset += int64(n)
			if n > 0 {
				r.stuck = 0
				return n, nil
			}
			if err == nil {
				continue
			}
		}
		if err := r.retryAfter(err); err != nil {
			return 0, err
		}
	}
}

func (r *resumingReader) ensureBody() error {
	if r.body != nil {
		return nil
	}
	r.tries++
	body, err := r.open(r.offset)
	if err == nil {
		r.body = body
	}
	return err
}

// broken returns nil when it makes sense to try again, after a while.
func (r *resumingReader) retryAfter(cause error) error {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
	if err := r.ctx.Err(); err != nil {
		return err
	}
	r.stuck++
	if errors.Is(cause, io.EOF) {
		cause = io.ErrUnexpectedEOF
	}
	if permanent(cause) {
		return cause
	}
	if r.stuck > maxStuck || r.tries >= maxTries {
		return fmt.Errorf("the connection broke %d times, last at byte %d of %d: %w", r.tries, r.offset, r.size, cause)
	}
	if r.wait <= 0 {
		return nil
	}
	timer := r.clock.NewTimer(r.wait << (r.stuck - 1))
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// final says that the same request would be answered the same.
func permanent(err error) bool {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return false
	}
	return answer.StatusCode < http.StatusInternalServerError
}

// Close may be called at any time after Read has returned.
func (r *resumingReader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
