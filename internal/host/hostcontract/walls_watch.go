// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"testing"
	"time"
)

// wallWatched: each thing that happens is told, after a time of silence.
func wallWatched(t *testing.T, f WallsFixture) {
	spec := newWall(70)
	f.Bundle(t, spec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, ended := make(chan struct{}, 1000), make(chan error, 1)
	go func() { ended <- f.Walls.WatchWalls(ctx, func() { told <- struct{}{} }) }()
	silence := func() {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			select {
			case <-told:
			case <-time.After(200 * time.Millisecond):
				return
			}
		}
		t.Fatal("changes are told without an end")
	}
	silence() // it watches by now
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"a wall that is made", func() error { _, err := f.Walls.EnsureWall(t.Context(), spec); return err }},
		{"one that is opened", func() error { f.Open(t, spec); return nil }},
		{"one that is mended", func() error { _, err := f.Walls.EnsureWall(t.Context(), spec); return err }},
		{"one that is deleted", func() error { return f.Walls.DeleteWall(t.Context(), spec.Owner) }},
	} {
		mustDo(t, step.what, step.do())
		select {
		case <-told:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: got no word of it", step.what)
		}
		silence()
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("end: got %v, want the context's error", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("end: still watching after its context ended")
	}
}
