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

// withKind wraps an error of the client with what was being done and with the
// port's error kind. If the caller's own context ended, there is no kind: the
// error says nothing about docker.
func withKind(what string, err error) error {
	if err == nil {
		return nil
	}
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", what, kind, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// errNoVersion is an ErrUnavailable that says why.
var errNoVersion = fmt.Errorf("%w: the node's Docker Engine and this release of the operator have no API version in common: install a release of either that the other supports", host.ErrUnavailable)

// kindOf returns the port's kind of an error of docker, or nil. docker's own
// conflicts have no kind: most mean that one of our objects is just changing. Who
// owns an object is determined by its labels, not by docker's errors.
func kindOf(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	switch {
	case kindIn(err) != nil:
		return nil // it has a kind already
	case versionRefused(err), versionUnknown(err):
		return errNoVersion
	case errors.Is(err, context.DeadlineExceeded), client.IsErrConnectionFailed(err), errdefs.IsUnavailable(err):
		return host.ErrUnavailable
	// Docker releases use different status codes for the next two; the words are
	// the same in all.
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
	for _, kind := range []error{host.ErrNotFound, host.ErrConflict, host.ErrOverlap, host.ErrInvalid, host.ErrUnavailable, host.ErrStuck} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}

// redacted is an error without env values in its text. It unwraps only to the
// port's kind, because the client's own error contains the values.
type redacted struct {
	text string
	kind error
}

func (r redacted) Error() string { return r.text }
func (r redacted) Unwrap() error { return r.kind }

// withoutValues returns err without the values of env, which docker may quote.
// Values of up to three characters stay, because they may occur in any text.
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
	return redacted{text: text, kind: kindIn(err)}
}
