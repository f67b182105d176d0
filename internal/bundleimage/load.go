// SPDX-License-Identifier: Apache-2.0

package bundleimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// answerLimit bounds how much of docker's response to a load is read.
const answerLimit = 1 << 20

// Docker is the part of a docker client that Ensure needs.
type Docker interface {
	ImageInspect(ctx context.Context, image string, opts ...client.ImageInspectOption) (client.ImageInspectResult, error)
	ImageLoad(ctx context.Context, input io.Reader, opts ...client.ImageLoadOption) (client.ImageLoadResult, error)
}

// Ensure loads the image unless docker has it. It replaces an image that has
// the same name but other content.
func (im *Image) Ensure(ctx context.Context, docker Docker) error {
	present, err := im.present(ctx, docker)
	if err != nil || present {
		return err
	}
	if err := im.load(ctx, docker); err != nil {
		return fmt.Errorf("load %s: %w", im.reference, err)
	}
	present, err = im.present(ctx, docker)
	if err != nil {
		return err
	}
	if !present {
		return fmt.Errorf("docker reports that it loaded %s, but does not have it", im.reference)
	}
	return nil
}

func (im *Image) present(ctx context.Context, docker Docker) (bool, error) {
	have, err := docker.ImageInspect(ctx, im.reference)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("inspect image %s: %w", im.reference, err)
	}
	layers := have.RootFS.Layers
	return len(layers) == 1 && layers[0] == im.diffID, nil
}

func (im *Image) load(ctx context.Context, docker Docker) error {
	archive, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := im.WriteArchive(w)
		w.CloseWithError(err)
		written <- err
	}()
	answer, err := docker.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err == nil {
		err = loadError(answer)
	}
	// Closing the pipe ends the writer if docker stopped reading early. The
	// writer's error is the cause of docker's, unless it only reports the
	// closed pipe.
	_ = archive.Close() // never fails
	if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr
	}
	return err
}

// loadError reads docker's response, a stream of JSON messages that may contain
// an error even if the status is 200.
func loadError(answer io.ReadCloser) error {
	defer answer.Close()
	messages := json.NewDecoder(io.LimitReader(answer, answerLimit))
	for {
		var m struct {
			Error string `json:"error"`
		}
		err := messages.Decode(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read docker's answer: %w", err)
		}
		if m.Error != "" {
			return errors.New(m.Error)
		}
	}
}
