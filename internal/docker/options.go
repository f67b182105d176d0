// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"strconv"

	"github.com/moby/moby/api/types/network"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	bridgeNameOption = "com.docker.network.bridge.name"
	mtuOption        = "com.docker.network.driver.mtu"

	// defaultMTU is the MTU of a docker network that has no such option.
	defaultMTU = 1500
)

// fixedOptions are the options of a bridge network that a bundle depends on, with
// docker's own defaults as values. default-network-opts in a node's daemon.json
// changes the defaults, but not what a network is created with. Releases that do not
// know an option ignore it.
var fixedOptions = map[string]string{
	// The machine reaches the bundle over the bridge.
	"com.docker.network.bridge.enable_icc": "true",
	// The bundle reaches the world through the node's address.
	"com.docker.network.bridge.enable_ip_masquerade": "true",
	"com.docker.network.bridge.gateway_mode_ipv4":    "nat",
	// The node has the gateway's address.
	"com.docker.network.bridge.inhibit_ipv4": "false",
	// No host beyond the node reaches the bundle directly.
	"com.docker.network.bridge.trusted_host_interfaces": "",
}

// networkOptions returns the options to create the owner's network with.
func networkOptions(owner host.Owner) map[string]string {
	options := map[string]string{bridgeNameOption: owner.Bridge()}
	for name, value := range fixedOptions {
		options[name] = value
	}
	return options
}

// equalOptions reports whether a network has the options of networkOptions. A network
// that an earlier release of the operator made lacks some of them, and has docker's
// defaults instead, unless docker shows others.
func equalOptions(have network.Summary, owner host.Owner) bool {
	for name, want := range fixedOptions {
		if value, ok := have.Options[name]; ok && value != want {
			return false
		}
	}
	return have.Options[bridgeNameOption] == owner.Bridge()
}

// mtuOf returns the MTU that docker gives to containers in the network.
func mtuOf(n network.Summary) int {
	if mtu, err := strconv.Atoi(n.Options[mtuOption]); err == nil && mtu > 0 {
		return mtu
	}
	return defaultMTU
}
