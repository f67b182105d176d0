// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"testing"
	"time"
)

// wallWatch checks that the watch reports each change.
func wallWatch(t *testing.T, f WallsFixture) {
	spec := newWall(70)
	f.Bundle(t, spec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, ended := make(chan struct{}, 1000), make(chan error, 1)
	go func() { ended <- f.Walls.WatchWalls(ctx, func() { changes <- struct{}{} }) }()
	awaitSilence := func() {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
			select {
			case <-changes:
			case <-time.After(200 * time.Millisecond):
				return
			}
		}
		t.Fatal("the watch does not stop reporting changes")
	}
	awaitSilence() // the watch has started by now
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"made", func() error { _, err := f.Walls.EnsureWall(t.Context(), spec); return err }},
		{"opened", func() error { f.Open(t, spec); return nil }},
		{"repaired", func() error { _, err := f.Walls.EnsureWall(t.Context(), spec); return err }},
		{"deleted", func() error { return f.Walls.DeleteWall(t.Context(), spec.Owner) }},
	} {
		mustDo(t, step.what, step.do())
		select {
		case <-changes:
		case <-time.After(30 * time.Second):
			t.Errorf("%s: the watch did not report it", step.what)
		}
		awaitSilence()
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("end: got %v, want the context's error", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("end: still watching after its context ended")
	}
}
