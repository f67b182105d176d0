// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/outcome"
)

// wallStep creates and deletes the wall.
type wallStep struct {
	enforcement enforce.Enforcement
}

// ensure creates the wall before there is a machine behind it. From then on the
// guard maintains it, even while passes wait for something.
func (w *wallStep) ensure(ctx context.Context, s *scope) error {
	request := requestOf(s.bottle)
	request.BundleImage = s.bundleImage
	wall, err := w.enforcement.EnsureWall(ctx, s.wallSpec(), request)
	if err == nil {
		s.wall = wall
		return nil
	}
	if errors.Is(err, host.ErrNotFound) {
		return &flow.Waiting{Reason: v1alpha1.ReasonWallNotReady, After: soon, Message: err.Error()}
	}
	return outcome.Map(err, outcome.Reasons{Conflict: v1alpha1.ReasonWallConflict, Unavailable: v1alpha1.ReasonWallNotReady})
}

func (s *scope) wallSpec() host.WallSpec {
	return host.WallSpec{
		Owner: s.owner, Subnet: s.triple.Subnet,
		BundleIP: s.triple.BundleIP, Ports: s.ports, MachineIP: s.triple.MachineIP,
	}
}

// delete removes the wall once no machine is behind it.
func (w *wallStep) delete(ctx context.Context, s *scope) error {
	return outcome.Map(w.enforcement.Release(ctx, s.owner), outcome.Reasons{Unavailable: v1alpha1.ReasonContainerRuntimeUnavailable})
}
