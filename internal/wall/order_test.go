// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// dying is a context that ends at the nth call of Err, as if the agent died there.
type dying struct {
	context.Context
	left *atomic.Int64
}

func (d dying) Err() error {
	if d.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestEnsureCanDieAnywhere ends EnsureWall between any two of its steps. No link may
// then be up or in the bridge without its filter, and the next call must complete
// the wall.
func TestEnsureCanDieAnywhere(t *testing.T) {
	w := newWorld(t)
	spec := newSpec(t, 44)
	w.addBundle(t, spec, 8888)
	t.Cleanup(func() { w.remove(t, spec) })
	want, err := expect(spec)
	must(t, err)
	for steps := int64(1); ; steps++ {
		ctx := dying{Context: t.Context(), left: &atomic.Int64{}}
		ctx.left.Store(steps)
		_, err := w.walls.EnsureWall(ctx, spec)
		found, observeErr := w.walls.observe(t.Context(), []host.WallSpec{spec})
		must(t, observeErr)
		f := found[0]
		fault := filterFault(f.filter, want)
		if end := f.bundleEnd; end != nil && (end.up || end.master != 0) && fault != "" {
			t.Errorf("died after %d steps: link up %t, in bridge %t, and the filter %s", steps, end.up, end.master != 0, fault)
		}
		if inner := f.inside.link(innerName); inner != nil && inner.up && fault != "" {
			t.Errorf("died after %d steps: the link inside is up and the filter %s", steps, fault)
		}
		if err == nil {
			if steps < 9 {
				t.Errorf("steps: got %d, want at least 9", steps)
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("died after %d steps: got %v, want context.Canceled", steps, err)
		}
		greet(t, w.stand(t, spec), spec)
		must(t, w.walls.DeleteWall(t.Context(), spec.Owner))
	}
}
