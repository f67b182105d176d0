// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

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
	limit, err := uplinkMTU()
	if err != nil {
		return err
	}
	equal := false
	for _, have := range ours {
		if !equal && equalNetwork(have, n) && mtuOf(have) <= limit {
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
	return e.createNetwork(ctx, n, limit)
}

// createNetwork creates the network with docker's own MTU, which an administrator may
// have set lower than the limit. If it is higher, the network is created again.
func (e *Engine) createNetwork(ctx context.Context, n host.Network, limit int) error {
	options := networkOptions(n.Owner)
	for {
		err := e.write(ctx, fmt.Sprintf("create docker network %q", n.Owner.ID()), func(ctx context.Context) error {
			on, off := true, false
			_, err := e.calls().NetworkCreate(ctx, n.Owner.ID(), client.NetworkCreateOptions{
				Driver:     "bridge",
				EnableIPv4: &on,
				EnableIPv6: &off,
				IPAM:       &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: n.Subnet, Gateway: n.Gateway}}},
				Options:    options,
				Labels:     labelsOf(n.Owner),
			})
			return err
		})
		if err != nil || options[mtuOption] != "" {
			return err
		}
		ours, _, err := e.findNetworks(ctx, n.Owner)
		if err != nil || len(ours) == 0 || mtuOf(ours[0]) <= limit {
			return err
		}
		if err := e.removeNetwork(ctx, ours[0]); err != nil {
			return err
		}
		options[mtuOption] = strconv.Itoa(limit)
	}
}

// renewNetwork replaces the owner's network if its options or its MTU are not what
// EnsureNetwork would choose now. No container may be running in it.
func (e *Engine) renewNetwork(ctx context.Context, owner host.Owner) error {
	n, err := e.InspectNetwork(ctx, owner)
	if absent(err) {
		return nil // the caller's next call to docker reports it
	}
	if err != nil {
		return err
	}
	return e.EnsureNetwork(ctx, n)
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
	// The one that the agent made comes first: only one network can have the bridge.
	if i := slices.IndexFunc(ours, func(n network.Summary) bool { return n.Options[bridgeNameOption] == owner.Bridge() }); i > 0 {
		ours[0], ours[i] = ours[i], ours[0]
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
	for id, endpoint := range full.Network.Containers {
		if err := e.disconnect(ctx, n, id, endpoint); err != nil {
			return err
		}
	}
	err = e.write(ctx, what, func(ctx context.Context) error {
		_, err := e.calls().NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		return err
	})
	switch {
	case errors.Is(err, host.ErrNotFound):
		return nil
	case hasEndpoints(err):
		return endpointsKept(n, err)
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
		equalOptions(have, want.Owner)
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
