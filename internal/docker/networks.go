// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

const bridgeNameOption = "com.docker.network.bridge.name"

// InspectNetwork implements host.Networks.
func (e *Engine) InspectNetwork(ctx context.Context, owner host.Owner) (host.Network, error) {
	ours, others, err := e.findNetworks(ctx, owner)
	switch {
	case err != nil:
		return host.Network{}, err
	case len(ours) > 0:
		return networkOf(ours[0]), nil
	case len(others) > 0:
		return host.Network{}, foreignNetwork(others[0])
	}
	return host.Network{}, fmt.Errorf("docker network %q: %w", owner.ID(), host.ErrNotFound)
}

// EnsureNetwork implements host.Networks.
func (e *Engine) EnsureNetwork(ctx context.Context, n host.Network) error {
	ours, others, err := e.findNetworks(ctx, n.Owner)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return foreignNetwork(others[0])
	}
	equal := false
	for _, have := range ours {
		if !equal && equalNetwork(have, n) {
			equal = true
			continue
		}
		if err := e.removeNetwork(ctx, have); err != nil {
			return err
		}
	}
	if equal {
		return nil
	}
	return e.write(ctx, fmt.Sprintf("create docker network %q", n.Owner.ID()), func(ctx context.Context) error {
		off := false
		_, err := e.calls().NetworkCreate(ctx, n.Owner.ID(), client.NetworkCreateOptions{
			Driver:     "bridge",
			EnableIPv6: &off,
			IPAM:       &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: n.Subnet, Gateway: n.Gateway}}},
			Options:    map[string]string{bridgeNameOption: n.Owner.Bridge()},
			Labels:     labelsOf(n.Owner),
		})
		return err
	})
}

// DeleteNetwork implements host.Networks.
func (e *Engine) DeleteNetwork(ctx context.Context, owner host.Owner) error {
	ours, _, err := e.findNetworks(ctx, owner)
	if err != nil {
		return err
	}
	for _, have := range ours {
		if err := e.removeNetwork(ctx, have); err != nil {
			return err
		}
	}
	return nil
}

// ListNetworks implements host.Networks.
func (e *Engine) ListNetworks(ctx context.Context) ([]host.Network, error) {
	all, err := e.listNetworks(ctx, labelFilter())
	if err != nil {
		return nil, err
	}
	var out []host.Network
	for _, n := range all {
		out = append(out, networkOf(n))
	}
	return out, nil
}

// findNetworks returns all networks with the owner's name: the owner's own ones
// and others. There may be several, because docker does not require names to be
// unique.
func (e *Engine) findNetworks(ctx context.Context, owner host.Owner) (ours, others []network.Summary, err error) {
	// The filter also matches parts of names.
	all, err := e.listNetworks(ctx, make(client.Filters).Add("name", owner.ID()))
	if err != nil {
		return nil, nil, err
	}
	for _, n := range all {
		switch {
		case n.Name != owner.ID():
		case owner.Same(ownerOf(n.Labels)):
			ours = append(ours, n)
		default:
			others = append(others, n)
		}
	}
	return ours, others, nil
}

func (e *Engine) listNetworks(ctx context.Context, filters client.Filters) ([]network.Summary, error) {
	var out client.NetworkListResult
	err := e.read(ctx, "list docker networks", func(ctx context.Context) (err error) {
		out, err = e.calls().NetworkList(ctx, client.NetworkListOptions{Filters: filters})
		return err
	})
	return out.Items, err
}

// removeNetwork disconnects all containers from one of our networks and removes
// the network. docker refuses to remove a network that has endpoints, and a container that
// somebody connected by hand must not block a teardown.
func (e *Engine) removeNetwork(ctx context.Context, n network.Summary) error {
	what := fmt.Sprintf("remove docker network %q", n.Name)
	var full client.NetworkInspectResult
	err := e.read(ctx, what, func(ctx context.Context) (err error) {
		full, err = e.calls().NetworkInspect(ctx, n.ID, client.NetworkInspectOptions{})
		return err
	})
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for id := range full.Network.Containers {
		err := e.write(ctx, what+": disconnect "+id, func(ctx context.Context) error {
			_, err := e.calls().NetworkDisconnect(ctx, n.ID, client.NetworkDisconnectOptions{Container: id, Force: true})
			return err
		})
		if err != nil && !errors.Is(err, host.ErrNotFound) {
			return err
		}
	}
	err = e.write(ctx, what, func(ctx context.Context) error {
		_, err := e.calls().NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		return err
	})
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

func networkOf(n network.Summary) host.Network {
	out := host.Network{Owner: ownerOf(n.Labels)}
	if len(n.IPAM.Config) > 0 {
		out.Subnet, out.Gateway = n.IPAM.Config[0].Subnet, n.IPAM.Config[0].Gateway
	}
	return out
}

func equalNetwork(have network.Summary, want host.Network) bool {
	return networkOf(have) == want && len(have.IPAM.Config) == 1 &&
		have.Driver == "bridge" && !have.EnableIPv6 && !have.Internal &&
		have.Options[bridgeNameOption] == want.Owner.Bridge()
}

func foreignNetwork(n network.Summary) error {
	return foreign("network", n.Name, n.ID, n.Labels)
}

// dockerPrefixes returns the subnets of every docker network but the owner's.
func (e *Engine) dockerPrefixes(ctx context.Context, owner host.Owner) ([]netip.Prefix, error) {
	all, err := e.listNetworks(ctx, nil)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, n := range all {
		if n.Name == owner.ID() && owner.Same(ownerOf(n.Labels)) {
			continue
		}
		for _, c := range n.IPAM.Config {
			if c.Subnet.IsValid() {
				out = append(out, c.Subnet)
			}
		}
	}
	return out, nil
}
