// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"fmt"
	"io"

	"botbottle.dev/bottle-operator/internal/host"
)

// ImageID is the ID of an image of the Docker Engine: host.ErrNotFound when it
// has none of that name.
func (e *Engine) ImageID(ctx context.Context, name string) (id string, err error) {
	err = e.read(ctx, fmt.Sprintf("inspect image %q", name), func(ctx context.Context) error {
		got, err := e.calls.ImageInspect(ctx, name)
		id = got.ID
		return err
	})
	return id, err
}

// SaveImage is an image in docker-save form. The caller closes it; ctx ends it.
func (e *Engine) SaveImage(ctx context.Context, id string) (io.ReadCloser, error) {
	if err := e.negotiate(ctx); err != nil {
		return nil, fmt.Errorf("save image %s: %w: %w", id, host.ErrUnavailable, err)
	}
	r, err := e.streams.ImageSave(ctx, []string{id})
	if err != nil {
		return nil, fmt.Errorf("save image %s: %w", id, err)
	}
	return r, nil
}
