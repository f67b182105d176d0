// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// wallParallel makes parallel calls for the same owner and for several owners.
func wallParallel(t *testing.T, f WallsFixture) {
	var specs []host.WallSpec
	for i := range 5 {
		specs = append(specs, newWall(70+i))
		f.Bundle(t, specs[i])
	}
	var calls sync.WaitGroup
	inParallel := func(call func(spec host.WallSpec) error) {
		for _, spec := range specs {
			for range 3 {
				calls.Go(func() {
					if err := call(spec); err != nil {
						t.Errorf("in parallel: got %v, want nil", err)
					}
				})
			}
		}
		calls.Wait()
	}
	inParallel(func(spec host.WallSpec) error {
		w, err := f.Walls.EnsureWall(t.Context(), spec)
		if err == nil && len(w.Faults) > 0 {
			err = fmt.Errorf("faults %v", w.Faults)
		}
		return err
	})
	inParallel(func(spec host.WallSpec) error {
		if _, err := f.Walls.InspectWalls(t.Context(), specs); err != nil {
			return err
		}
		if spec.Owner == specs[0].Owner { // the other walls must have no faults meanwhile
			return f.Walls.DeleteWall(t.Context(), spec.Owner)
		}
		walls, err := f.Walls.InspectWalls(t.Context(), specs[1:])
		for _, w := range walls {
			if len(w.Faults) > 0 {
				err = errors.Join(err, fmt.Errorf("faults %v", w.Faults))
			}
		}
		return err
	})
	inParallel(func(spec host.WallSpec) error { return f.Walls.DeleteWall(t.Context(), spec.Owner) })
	for _, spec := range specs {
		wantNoWall(t, "at the end", inspectWall(t, f, spec))
	}
}

// wallHalfMade makes and deletes a wall while inspecting it: work in progress must
// not be reported as a fault, and above all not as an open one.
func wallHalfMade(t *testing.T, f WallsFixture) {
	spec, _ := madeWall(t, f, 82)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 10 {
			if err := f.Walls.DeleteWall(t.Context(), spec.Owner); err != nil {
				t.Errorf("delete: got %v, want nil", err)
			}
			if _, err := f.Walls.EnsureWall(t.Context(), spec); err != nil {
				t.Errorf("ensure: got %v, want nil", err)
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
		}
		if got := inspectWall(t, f, spec); len(got.Faults) > 0 && got.NetNS != (host.NetNS{}) || isOpen(got) {
			t.Errorf("while it is made and deleted: got %+v, want the whole wall or nothing", got)
		}
	}
}

func wallCancelled(t *testing.T, f WallsFixture) {
	spec := newWall(69)
	f.Bundle(t, spec)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, ensure := f.Walls.EnsureWall(ctx, spec)
	_, inspect := f.Walls.InspectWalls(ctx, []host.WallSpec{spec})
	_, list := f.Walls.ListWalls(ctx)
	_, drops := f.Walls.Drops(ctx, spec.Owner)
	for call, err := range map[string]error{
		"ensure": ensure, "inspect": inspect, "list": list, "drops": drops,
		"delete": f.Walls.DeleteWall(ctx, spec.Owner), "forget": f.Walls.ForgetDrops(ctx, spec.Owner),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want context.Canceled", call, err)
		}
	}
}
