// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestWithKind(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want error // nil for none
	}{
		{fmt.Errorf("no such container: %w", errdefs.ErrNotFound), host.ErrNotFound},
		{fmt.Errorf("removal already in progress: %w", errdefs.ErrConflict), nil},
		{fmt.Errorf("bad parameter: %w", errdefs.ErrInvalidArgument), host.ErrInvalid},
		{fmt.Errorf("starting: %w", errdefs.ErrUnavailable), host.ErrUnavailable},
		{context.DeadlineExceeded, host.ErrUnavailable},
		{fmt.Errorf("Pool overlaps with other one on this address space: %w", errdefs.ErrPermissionDenied), host.ErrOverlap},
		{fmt.Errorf("invalid pool request: Pool overlaps with other one on this address space: %w", errdefs.ErrInvalidArgument), host.ErrOverlap},
		{fmt.Errorf("conflicts with network x: networks have overlapping IPv4: %w", errdefs.ErrPermissionDenied), host.ErrOverlap},
		{fmt.Errorf("conflicts with network x: networks have same bridge name: %w", errdefs.ErrPermissionDenied), host.ErrConflict},
		// Docker's way to say "not now": it must not count as a permanent failure.
		{fmt.Errorf("network has active endpoints: %w", errdefs.ErrPermissionDenied), nil},
		{fmt.Errorf("boom: %w", errdefs.ErrInternal), nil},
		{fmt.Errorf("its own kind: %w", host.ErrConflict), host.ErrConflict},
	} {
		got := withKind("do it", tt.err)
		if !errors.Is(got, tt.err) || !strings.HasPrefix(got.Error(), "do it: ") {
			t.Errorf("%v: got %v, want it wrapped with what was done", tt.err, got)
		}
		if kind := kindIn(got); !errors.Is(kind, tt.want) {
			t.Errorf("%v: got kind %v, want %v", tt.err, kind, tt.want)
		}
	}
	if err := withKind("do it", nil); err != nil {
		t.Errorf("nil: got %v, want nil", err)
	}
}

func TestWithoutValues(t *testing.T) {
	env := []string{"TOKEN=hunter22", "SHORT=on", "EMPTY=", "BOTH=hunter22=x"}
	cause := fmt.Errorf("refused on account of hunter22, on: %w", host.ErrInvalid)
	err := withoutValues(cause, env)
	if got, want := err.Error(), "refused on account of ***, on: refused"; got != want {
		t.Errorf("text: got %q, want %q", got, want)
	}
	if !errors.Is(err, host.ErrInvalid) {
		t.Errorf("kind: got %v, want ErrInvalid", err)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if strings.Contains(e.Error(), "hunter22") {
			t.Errorf("chain: got %q, want no value in it", e)
		}
	}
	if clean := errors.New("nothing in it"); !errors.Is(withoutValues(clean, env), clean) {
		t.Error("an error without values: got a different error, want the same")
	}
}
