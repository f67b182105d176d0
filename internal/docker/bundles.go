// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
)

// stopGrace is the time that a bundle gets to end by itself, in seconds.
const stopGrace = 5

// InspectBundle implements host.Bundles.
func (e *Engine) InspectBundle(ctx context.Context, owner host.Owner) (host.Bundle, error) {
	c, err := e.findBundle(ctx, owner)
	if err != nil {
		return host.Bundle{}, err
	}
	return bundleOf(c), nil
}

// EnsureBundle implements host.Bundles.
func (e *Engine) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	image := spec.Image
	if image == "" {
		image, _ = e.builtIn()
	}
	options, err := createOptions(spec, image)
	if err != nil {
		return host.Bundle{}, fmt.Errorf("bundle %q: %w", spec.Owner.ID(), err)
	}
	if err := e.checkLimits(ctx, &options.HostConfig.Resources); err != nil {
		return host.Bundle{}, fmt.Errorf("bundle %q: %w", spec.Owner.ID(), err)
	}
	b, err := e.ensureBundle(ctx, spec, options)
	return b, withoutValues(err, spec.Env)
}

// ensureBundle makes at most two attempts: if the start shows that the container
// is unfit, it is removed and created again.
func (e *Engine) ensureBundle(ctx context.Context, spec host.BundleSpec, options client.ContainerCreateOptions) (host.Bundle, error) {
	for again := true; ; again = false {
		c, err := e.existingBundle(ctx, spec, options)
		if err != nil {
			return host.Bundle{}, err
		}
		if c.State.Running && !c.State.Paused {
			return bundleOf(c), nil
		}
		if failedJustNow(c, time.Now()) {
			return bundleOf(c), nil // not running: the caller checks again soon
		}
		if c.State.Status == container.StateExited {
			// The network has no running container, so it can be replaced.
			if err := e.renewNetwork(ctx, spec.Owner); err != nil {
				return host.Bundle{}, err
			}
		}
		b, err := e.startBundle(ctx, c, options)
		if !again || !errors.As(err, new(unfitError)) {
			return b, err
		}
		if err := e.removeContainer(ctx, c); err != nil {
			return host.Bundle{}, err
		}
	}
}

// unfitError means that a container has to be created again. It does not wrap
// ErrNotFound, which in the contract of EnsureBundle means a missing image.
type unfitError string

func (e unfitError) Error() string { return string(e) }

// startBundle starts a container and returns its new state. It returns an
// unfitError when the container cannot start because its network was replaced,
// or when its addresses after the start differ from options.
func (e *Engine) startBundle(ctx context.Context, c container.InspectResponse, options client.ContainerCreateOptions) (host.Bundle, error) {
	err := e.startContainer(ctx, c)
	if err == nil {
		c, err = e.findBundle(ctx, ownerOf(c.Config.Labels))
	}
	switch {
	case errors.Is(err, host.ErrNotFound), markedForRemoval(err):
		return host.Bundle{}, unfitError(err.Error())
	case addressTaken(err):
		return host.Bundle{}, e.freeAddress(ctx, c, options, err)
	case err != nil:
		return host.Bundle{}, err
	case !equalBundle(c, options):
		return host.Bundle{}, unfitError(fmt.Sprintf("docker container %q has other addresses than it was created with", options.Name))
	}
	return bundleOf(c), nil
}

// existingBundle returns the owner's container. It creates the container if there
// is none, and replaces it if it differs from options.
func (e *Engine) existingBundle(ctx context.Context, spec host.BundleSpec, options client.ContainerCreateOptions) (container.InspectResponse, error) {
	c, err := e.findBundle(ctx, spec.Owner)
	switch {
	case errors.Is(err, host.ErrNotFound):
		return e.createBundle(ctx, spec, options)
	case err != nil:
		return container.InspectResponse{}, err
	case beingRemoved(c), lostSecrets(c, spec.SecretsDir):
	case equalBundle(c, options):
		if equalLimits(c, options.HostConfig.Resources) {
			return c, nil
		}
		if limited, err := e.limitBundle(ctx, c, options.HostConfig.Resources); !errors.As(err, new(unfitError)) {
			return limited, err
		}
	}
	if err := e.removeContainer(ctx, c); err != nil {
		return container.InspectResponse{}, err
	}
	return e.createBundle(ctx, spec, options)
}

// lostSecrets reports whether a running container has another folder mounted than the one
// that is at this path now, because somebody unmounted the vault. Nothing that the agent
// writes would reach the container.
func lostSecrets(c container.InspectResponse, path string) bool {
	if path == "" || !c.State.Running {
		return false
	}
	inside, err := os.Lstat(fmt.Sprintf("/proc/%d/root%s", c.State.Pid, bundleimage.SecretsDir))
	if err != nil {
		return false // it has just ended, or was created without the mount
	}
	now, err := os.Lstat(path)
	return err == nil && !os.SameFile(inside, now)
}

// restartDelay is how long a container stays down if it failed within the same
// time after its start, or exceeded its memory limit at any time: a container that
// always fails must not keep the node busy, and the caller reports the reason.
const restartDelay = 10 * time.Second

func failedJustNow(c container.InspectResponse, now time.Time) bool {
	started, err := time.Parse(time.RFC3339Nano, c.State.StartedAt)
	if err != nil {
		return false
	}
	finished, err := time.Parse(time.RFC3339Nano, c.State.FinishedAt)
	if err != nil || finished.Before(started) {
		return false
	}
	if outOfMemory(c) {
		return now.Sub(finished) < restartDelay
	}
	bySignal := c.State.ExitCode > 128 // it was killed and did not fail
	return c.State.ExitCode != 0 && !bySignal && finished.Sub(started) < restartDelay && now.Sub(finished) < restartDelay
}

// createBundle creates the container without starting it.
func (e *Engine) createBundle(ctx context.Context, spec host.BundleSpec, options client.ContainerCreateOptions) (container.InspectResponse, error) {
	if err := e.ensureImage(ctx, spec, options.Config.Image); err != nil {
		return container.InspectResponse{}, err
	}
	if err := e.renewNetwork(ctx, spec.Owner); err != nil {
		return container.InspectResponse{}, err
	}
	what := fmt.Sprintf("create docker container %q", options.Name)
	err := e.write(ctx, what, func(ctx context.Context) error {
		_, err := e.calls().ContainerCreate(ctx, options)
		return err
	})
	switch {
	case errors.Is(err, host.ErrNotFound):
		// The image exists, so docker did not find something else, such as the network.
		return container.InspectResponse{}, withoutKind(what, err)
	case err != nil && !errdefs.IsConflict(err):
		return container.InspectResponse{}, err
	}
	// If the name was taken in the meantime, the container is ours, or findBundle
	// returns an error that names its owner.
	c, ferr := e.findBundle(ctx, spec.Owner)
	switch {
	case errors.Is(ferr, host.ErrNotFound) && err != nil:
		return container.InspectResponse{}, e.nameKept(ctx, spec.Owner, err)
	case errors.Is(ferr, host.ErrNotFound):
		return container.InspectResponse{}, withoutKind(what, ferr)
	case ferr == nil && !equalBundle(c, options):
		return container.InspectResponse{}, fmt.Errorf("docker container %q changed while it was being created", options.Name)
	}
	return c, ferr
}

// ensureImage makes sure that the node has the image. It loads only the built-in
// image.
func (e *Engine) ensureImage(ctx context.Context, spec host.BundleSpec, image string) error {
	_, executable := e.builtIn()
	if image == "" {
		return fmt.Errorf("the built-in bundle image was not loaded: %w", host.ErrNotFound)
	}
	err := e.read(ctx, fmt.Sprintf("look for image %q on the node", image), func(ctx context.Context) error {
		_, err := e.calls().ImageInspect(ctx, image)
		return err
	})
	if errors.Is(err, host.ErrNotFound) && spec.Image == "" && executable != "" {
		_, err = e.LoadBundleImage(ctx, executable)
	}
	return err
}

// StopBundle implements host.Bundles.
func (e *Engine) StopBundle(ctx context.Context, owner host.Owner) error {
	c, err := e.findBundle(ctx, owner)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !c.State.Running {
		return nil
	}
	grace := stopGrace
	err = e.write(ctx, fmt.Sprintf("stop docker container %q", owner.ID()), func(ctx context.Context) error {
		_, err := e.calls().ContainerStop(ctx, c.ID, client.ContainerStopOptions{Timeout: &grace})
		return err
	})
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

// DeleteBundle implements host.Bundles.
func (e *Engine) DeleteBundle(ctx context.Context, owner host.Owner) error {
	c, err := e.findBundle(ctx, owner)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return e.removeContainer(ctx, c)
}

// ListBundles implements host.Bundles.
func (e *Engine) ListBundles(ctx context.Context) ([]host.Bundle, error) {
	var list client.ContainerListResult
	err := e.read(ctx, "list docker containers", func(ctx context.Context) (err error) {
		list, err = e.calls().ContainerList(ctx, client.ContainerListOptions{All: true, Filters: labelFilter()})
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []host.Bundle
	for _, c := range list.Items {
		out = append(out, bundleOfSummary(c))
	}
	return out, nil
}

// findBundle returns the owner's container. It returns ErrNotFound when there is
// none, and ErrConflict when a container with its name belongs to someone else.
func (e *Engine) findBundle(ctx context.Context, owner host.Owner) (container.InspectResponse, error) {
	var out client.ContainerInspectResult
	err := e.read(ctx, fmt.Sprintf("inspect docker container %q", owner.ID()), func(ctx context.Context) (err error) {
		out, err = e.calls().ContainerInspect(ctx, owner.ID(), client.ContainerInspectOptions{})
		return err
	})
	if err != nil {
		return container.InspectResponse{}, err
	}
	c := out.Container
	if c.State == nil || c.Config == nil || c.HostConfig == nil || c.NetworkSettings == nil {
		return container.InspectResponse{}, fmt.Errorf("inspect docker container %q: docker's answer is incomplete", owner.ID())
	}
	if !owner.Same(ownerOf(c.Config.Labels)) {
		return container.InspectResponse{}, foreign("container", owner.ID(), c.ID, c.Config.Labels)
	}
	return c, nil
}

func (e *Engine) startContainer(ctx context.Context, c container.InspectResponse) error {
	return e.write(ctx, fmt.Sprintf("start docker container %q", ownerOf(c.Config.Labels).ID()), func(ctx context.Context) error {
		if c.State.Paused {
			return e.unpause(ctx, c.ID)
		}
		_, err := e.calls().ContainerStart(ctx, c.ID, client.ContainerStartOptions{})
		return err
	})
}

// unpause returns when the container runs again, because docker reports that with
// a delay.
func (e *Engine) unpause(ctx context.Context, id string) error {
	if _, err := e.calls().ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{}); err != nil {
		return err
	}
	for {
		out, err := e.calls().ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if err != nil || out.Container.State == nil || !out.Container.State.Paused {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits briefly. It is for polling where docker does not report the end of
// an operation.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}

func absent(err error) bool {
	return errors.Is(err, host.ErrNotFound) || errors.Is(err, host.ErrConflict)
}
