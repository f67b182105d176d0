// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
)

// equalBundle reports whether the container is the one that options would
// create, and is still attached to its network at its IP and MAC address.
func equalBundle(c container.InspectResponse, options client.ContainerCreateOptions) bool {
	want := options.NetworkingConfig.EndpointsConfig[options.Name]
	return c.Config.Labels[specHashLabel] == options.Config.Labels[specHashLabel] &&
		bundleOf(c).IP == want.IPAMConfig.IPv4Address &&
		equalMAC(c, want.MacAddress)
}

// equalMAC reports whether a container has the MAC address want on its network.
// Docker assigns the address at the start: a container that is not running may
// have none.
func equalMAC(c container.InspectResponse, want network.HardwareAddr) bool {
	var have network.HardwareAddr
	if ep := c.NetworkSettings.Networks[ownerOf(c.Config.Labels).ID()]; ep != nil {
		have = ep.MacAddress
	}
	if len(have) == 0 {
		return !c.State.Running
	}
	return bytes.Equal(have, want)
}

func bundleOf(c container.InspectResponse) host.Bundle {
	owner := ownerOf(c.Config.Labels)
	b := host.Bundle{
		Owner:       owner,
		ContainerID: c.ID,
		Image:       c.Config.Image,
		IP:          pinnedIP(c.NetworkSettings, owner),
		Running:     c.State.Running && !c.State.Paused && !c.State.Restarting,
		State:       string(c.State.Status),
		OutOfMemory: outOfMemory(c),
	}
	if c.State.Status == container.StateExited || c.State.Status == container.StateDead {
		b.State = fmt.Sprintf("%s (%d)", c.State.Status, c.State.ExitCode)
	}
	if t, err := time.Parse(time.RFC3339Nano, c.State.StartedAt); err == nil && t.Year() > 1 {
		b.StartedAt = t // docker writes the year 1 for never
	}
	return b
}

func pinnedIP(s *container.NetworkSettings, owner host.Owner) netip.Addr {
	if ep := s.Networks[owner.ID()]; ep != nil && ep.IPAMConfig != nil {
		return ep.IPAMConfig.IPv4Address
	}
	return netip.Addr{}
}

func bundleOfSummary(c container.Summary) host.Bundle {
	owner := ownerOf(c.Labels)
	b := host.Bundle{
		Owner:       owner,
		ContainerID: c.ID,
		Image:       c.Image,
		Running:     c.State == container.StateRunning,
		State:       string(c.State),
	}
	if code := exitCode.FindString(c.Status); code != "" && !b.Running {
		b.State += " " + code
	}
	if s := c.NetworkSettings; s != nil {
		b.IP = pinnedIP(&container.NetworkSettings{Networks: s.Networks}, owner)
	}
	return b
}

// exitCode finds the exit code in a container's status. A list of containers
// has it only in this text: "Exited (137) 3 seconds ago".
var exitCode = regexp.MustCompile(`\(-?[0-9]+\)`)
