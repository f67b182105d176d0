// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
)

// ImageID returns the ID of an image of the Docker Engine. It returns
// host.ErrNotFound when there is no image with that name.
func (e *Engine) ImageID(ctx context.Context, name string) (id string, err error) {
	err = e.read(ctx, fmt.Sprintf("inspect image %q", name), func(ctx context.Context) error {
		got, err := e.calls().ImageInspect(ctx, name)
		id = got.ID
		return err
	})
	return id, err
}

// SaveImage returns an image in the format of docker save. The caller must close
// it. The stream ends when ctx does.
func (e *Engine) SaveImage(ctx context.Context, id string) (io.ReadCloser, error) {
	if err := e.version.negotiate(ctx); err != nil {
		return nil, fmt.Errorf("save image %s: %w: %w", id, host.ErrUnavailable, err)
	}
	var r io.ReadCloser
	err := e.version.retry(ctx, func(ctx context.Context) (err error) {
		r, err = e.streams().ImageSave(ctx, []string{id})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("save image %s: %w", id, err)
	}
	return r, nil
}

// BundleImages returns the references of all images of the built-in bundle, of any
// release.
func (e *Engine) BundleImages(ctx context.Context) (references []string, err error) {
	err = e.read(ctx, "list the bundle's images", func(ctx context.Context) error {
		list, err := e.calls().ImageList(ctx, client.ImageListOptions{Filters: client.Filters{}.Add("reference", bundleimage.Repository)})
		for _, image := range list.Items {
			references = append(references, image.RepoTags...)
		}
		return err
	})
	return references, err
}

// DeleteImage deletes an image that no container uses. It returns nil when there is no
// image with that name.
func (e *Engine) DeleteImage(ctx context.Context, name string) error {
	err := e.write(ctx, fmt.Sprintf("delete image %q", name), func(ctx context.Context) error {
		_, err := e.calls().ImageRemove(ctx, name, client.ImageRemoveOptions{})
		return err
	})
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}
