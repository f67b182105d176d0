// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

// kinds wraps an error of the client with what was being done and with the
// port's kind. One that comes of the caller's own end has none: nothing is
// known of docker then.
func kinds(what string, err error) error {
	if err == nil {
		return nil
	}
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", what, kind, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// kindOf leaves docker's own conflicts without a kind: most are about a thing
// of ours that is just changing, and whose a thing is, labels tell.
func kindOf(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	switch {
	case kindIn(err) != nil:
		return nil // it says so itself
	case errors.Is(err, context.DeadlineExceeded), client.IsErrConnectionFailed(err), errdefs.IsUnavailable(err):
		return host.ErrUnavailable
	// Releases differ in the status of these two; the words are in all.
	case strings.Contains(text, "Pool overlaps"), strings.Contains(text, "networks have overlapping"):
		return host.ErrOverlap
	case strings.Contains(text, "same bridge name"):
		return host.ErrConflict
	case errdefs.IsNotFound(err):
		return host.ErrNotFound
	case errdefs.IsInvalidArgument(err):
		return host.ErrInvalid
	}
	return nil
}

// kindIn returns the port's kind that err already has.
func kindIn(err error) error {
	for _, kind := range []error{host.ErrNotFound, host.ErrConflict, host.ErrOverlap, host.ErrInvalid, host.ErrUnavailable} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}

// secretless is an error whose text was cleaned of env values. It unwraps to
// the port's kind only: the client's own error has the values in it.
type secretless struct {
	text string
	kind error
}

func (s secretless) Error() string { return s.text }
func (s secretless) Unwrap() error { return s.kind }

// withoutValues returns err without the values of env, which docker may echo.
// Values of up to three characters stay: they occur in any text.
func withoutValues(err error, env []string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, entry := range env {
		if _, value, _ := strings.Cut(entry, "="); len(value) > 3 {
			text = strings.ReplaceAll(text, value, "***")
		}
	}
	if text == err.Error() {
		return err
	}
	return secretless{text: text, kind: kindIn(err)}
}
