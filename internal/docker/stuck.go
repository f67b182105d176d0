// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

// removalPatience is how long a caller waits for a removal that is in progress
// already. A removal normally takes less than a second.
const removalPatience = 10 * time.Second

// beingRemoved reports whether docker is removing the container, or has failed to: it
// can never start again, but keeps its name.
func beingRemoved(c container.InspectResponse) bool {
	return c.State.Dead || c.State.Status == container.StateDead || c.State.Status == container.StateRemoving
}

// markedForRemoval reports whether docker refused to start a container because it is
// being removed, which began after the container was inspected.
func markedForRemoval(err error) bool {
	return err != nil && strings.Contains(err.Error(), "marked for removal")
}

// removeContainer removes one of our containers, running or not, with its
// anonymous volumes. It returns when the name is free again, or ErrStuck if docker
// does not manage to remove it.
func (e *Engine) removeContainer(ctx context.Context, c container.InspectResponse) error {
	name := ownerOf(c.Config.Labels).ID()
	return e.write(ctx, fmt.Sprintf("remove docker container %q", name), func(ctx context.Context) error {
		for deadline := time.Now().Add(e.removalPatience); ; {
			_, err := e.calls().ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			switch {
			case err == nil, errdefs.IsNotFound(err):
				return nil
			case errdefs.IsConflict(err) && time.Now().Before(deadline):
				// Somebody else is removing it.
			case errdefs.IsConflict(err):
				return fmt.Errorf("%w: docker has been removing container %.12s for a while, and the bundle starts again when it is gone: if it does not go, restart docker on the node", host.ErrStuck, c.ID)
			case errdefs.IsInternal(err):
				return fmt.Errorf("%w: docker cannot remove container %.12s: correct what docker reports, and if that is not enough, restart docker on the node: %w", host.ErrStuck, c.ID, err)
			default:
				return err
			}
			if err := pause(ctx); err != nil {
				return err
			}
		}
	})
}

// keeper finds the ID of the container that keeps a name in docker's refusal to give
// the name to another one.
var keeper = regexp.MustCompile(`is already in use by container "?([0-9a-f]{12,64})`)

// nameKept returns the error for a name that docker refuses because a container has
// it, although docker knows no container with that name.
func (e *Engine) nameKept(ctx context.Context, owner host.Owner, refusal error) error {
	what := fmt.Sprintf("create docker container %q", owner.ID())
	found := keeper.FindStringSubmatch(refusal.Error())
	if found == nil {
		return withoutKind(what, refusal)
	}
	id := found[1]
	err := e.read(ctx, "inspect docker container "+id, func(ctx context.Context) error {
		_, err := e.calls().ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		return err
	})
	switch {
	case err == nil:
		return fmt.Errorf("%s: container %.12s has the name, and is just being created or removed", what, id)
	case errors.Is(err, host.ErrNotFound):
		return fmt.Errorf("%s: %w: docker keeps the name for container %.12s, which it does not list: unless docker is just creating it, run docker rm -f %.12s on the node, or restart docker there if docker does not know that container", what, host.ErrStuck, id, id)
	}
	return err
}

// withoutKind returns err without its kind, which would mean something else to the
// caller.
func withoutKind(what string, err error) error {
	return fmt.Errorf("%s: %s", what, err.Error())
}

// addressTaken reports whether docker could not start a container because another
// endpoint in its network has its address.
func addressTaken(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Address already in use")
}

// freeAddress disconnects whatever has the bundle's address from the bundle's network,
// which is ours. It returns an unfitError if that may help.
func (e *Engine) freeAddress(ctx context.Context, c container.InspectResponse, options client.ContainerCreateOptions, cause error) error {
	owner := ownerOf(c.Config.Labels)
	ip := options.NetworkingConfig.EndpointsConfig[options.Name].IPAMConfig.IPv4Address
	ours, _, err := e.findNetworks(ctx, owner)
	if err != nil {
		return err
	}
	freed := false
	for _, n := range ours {
		var full client.NetworkInspectResult
		err := e.read(ctx, fmt.Sprintf("inspect docker network %q", n.Name), func(ctx context.Context) (err error) {
			full, err = e.calls().NetworkInspect(ctx, n.ID, client.NetworkInspectOptions{})
			return err
		})
		if err != nil {
			return err
		}
		for id, endpoint := range full.Network.Containers {
			if endpoint.IPv4Address.Addr() != ip || id == c.ID {
				continue
			}
			if err := e.disconnect(ctx, n, id, endpoint); err != nil {
				return err
			}
			freed = true
		}
	}
	if freed {
		return unfitError(cause.Error())
	}
	return addressKept(options.Name, ip, cause)
}

func addressKept(name string, ip netip.Addr, cause error) error {
	return fmt.Errorf("docker container %q: %w: docker keeps the address %s for an endpoint that it does not list: restart docker on the node: %s", name, host.ErrStuck, ip, cause.Error())
}

// disconnect disconnects a container from one of our networks. An endpoint that is
// left of a container that docker no longer knows is removed by its name.
func (e *Engine) disconnect(ctx context.Context, n network.Summary, id string, endpoint network.EndpointResource) error {
	for _, name := range []string{id, endpoint.Name} {
		err := e.write(ctx, fmt.Sprintf("disconnect container %.15s from docker network %q", id, n.Name), func(ctx context.Context) error {
			_, err := e.calls().NetworkDisconnect(ctx, n.ID, client.NetworkDisconnectOptions{Container: name, Force: true})
			return err
		})
		if !errors.Is(err, host.ErrNotFound) {
			return err
		}
	}
	return nil
}

func hasEndpoints(err error) bool {
	return err != nil && strings.Contains(err.Error(), "has active endpoints")
}

// endpointsKept returns the error for a network that docker refuses to remove although
// everything was disconnected from it.
func endpointsKept(n network.Summary, cause error) error {
	return fmt.Errorf("remove docker network %q: %w: docker keeps an endpoint in it although no container is connected any more: if this lasts, restart docker on the node: %s", n.Name, host.ErrStuck, cause.Error())
}
