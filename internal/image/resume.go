// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"k8s.io/utils/clock"
)

const (
	// maxStuck bounds the consecutive retries that bring no byte.
	maxStuck = 4
	// maxTries bounds all attempts for one blob, so that a registry that keeps
	// breaking the connection fails the pull.
	maxTries = 25
)

// resumingReader reads a blob of a known size. When the connection breaks, it
// resumes where it was. The caller verifies the content.
type resumingReader struct {
	ctx   context.Context // the context of the pull
	open  func(offset int64) (io.ReadCloser, error)
	size  int64
	clock clock.Clock
	wait  time.Duration // before the first retry in a row; doubles with each

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
			// Never read more than was announced, so that a limit on the
			// announced size is a limit on the content.
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

// retryAfter waits and returns nil if another attempt makes sense. Otherwise it
// returns the error.
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
		return &brokenError{tries: r.tries, offset: r.offset, size: r.size, cause: cause}
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

// brokenError means that a blob could not be read to its end.
type brokenError struct {
	tries        int
	offset, size int64
	cause        error
}

func (e *brokenError) Error() string {
	return fmt.Sprintf("the connection broke %d times, last at byte %d of %d: %v", e.tries, e.offset, e.size, e.cause)
}

func (e *brokenError) Unwrap() error { return e.cause }

// permanent reports whether the same request would get the same answer.
func permanent(err error) bool {
	var (
		refused *refusedError
		own     ownError
		asked   *askedToWait
		cert    *tls.CertificateVerificationError
		answer  *transport.Error
	)
	if errors.As(err, &refused) || errors.As(err, &own) || errors.As(err, &asked) || errors.As(err, &cert) || isNotTLS(err) {
		return true
	}
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return false
	}
	return answer.StatusCode < http.StatusInternalServerError
}

// Close may be called at any time when Read is not running.
func (r *resumingReader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
