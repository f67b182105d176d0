// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// specHashLabel keeps the hash of what a container was created with.
	// Docker rewrites much of that, so that it cannot be compared itself.
	specHashLabel = "botbottle.dev/spec-hash"

	builtInMemory = 256 << 20
	builtInPids   = 256
	logSize       = "10m"
	logFiles      = "2"
)

// createOptions is the container that spec asks for, image being the reference
// that it is created from.
func createOptions(spec host.BundleSpec, image string) (client.ContainerCreateOptions, error) {
	if err := checkEnv(spec.Env); err != nil {
		return client.ContainerCreateOptions{}, err
	}
	config := &container.Config{
		Hostname: spec.Owner.ID(),
		Image:    image,
		Env:      spec.Env,
		Labels:   labelsOf(spec.Owner),
	}
	hostConfig := &container.HostConfig{
		NetworkMode: container.NetworkMode(spec.Owner.ID()),
		// The agent starts what has ended, and says so; docker would do it
		// behind its back, and before the node's walls stand after a boot.
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		SecurityOpt:   []string{"no-new-privileges:true"},
		LogConfig: container.LogConfig{
			Type:   "json-file",
			Config: map[string]string{"max-size": logSize, "max-file": logFiles},
		},
	}
	if spec.Image == "" {
		harden(config, hostConfig, spec.RulesDir)
	} else {
		hostConfig.CapDrop = []string{"NET_RAW"}
	}
	options := client.ContainerCreateOptions{
		Name:       spec.Owner.ID(),
		Config:     config,
		HostConfig: hostConfig,
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
			spec.Owner.ID(): {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: spec.IP}},
		}},
	}
	// The map of labels is the config's own: the hash must be taken before it
	// is among them.
	hash, err := specHash(options)
	if err != nil {
		return client.ContainerCreateOptions{}, err
	}
	config.Labels[specHashLabel] = hash
	// Not part of the hash: it follows from the address, and is read back. A
	// container that an earlier release made at this very address can stay.
	// An Engine older than 25 ignores it and derives the same one itself.
	options.NetworkingConfig.EndpointsConfig[options.Name].MacAddress = network.HardwareAddr(host.BundleMAC(spec.IP))
	return options, nil
}

// harden leaves the built-in bundle only what it needs: to listen on a high
// port, to dial, and to read its rules.
func harden(config *container.Config, hostConfig *container.HostConfig, rulesDir string) {
	pids := int64(builtInPids)
	config.User = bundleimage.User
	hostConfig.ReadonlyRootfs = true
	hostConfig.CapDrop = []string{"ALL"}
	hostConfig.Resources = container.Resources{Memory: builtInMemory, MemorySwap: builtInMemory, PidsLimit: &pids}
	if rulesDir != "" {
		// The folder, not the file: a file renamed over the old one is then
		// seen by the bundle.
		hostConfig.Mounts = []mount.Mount{{
			Type: mount.TypeBind, Source: rulesDir, Target: bundleimage.RulesDir, ReadOnly: true,
		}}
	}
}

// specHash covers all that a container is created with but its MAC address.
// Env values are in it in no readable form.
func specHash(options client.ContainerCreateOptions) (string, error) {
	text, err := json.Marshal(options)
	if err != nil {
		return "", fmt.Errorf("hash container %q: %w", options.Name, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// checkEnv refuses what docker would refuse with the value in its answer, and
// what docker would understand as taking a variable away.
func checkEnv(env []string) error {
	for i, entry := range env {
		name, _, ok := strings.Cut(entry, "=")
		switch {
		case !ok || name == "":
			return fmt.Errorf("env entry %d is not K=V: %w", i, host.ErrInvalid)
		case strings.ContainsRune(entry, 0):
			return fmt.Errorf("env entry %q has a NUL character: %w", strings.ReplaceAll(name, "\x00", ""), host.ErrInvalid)
		}
	}
	return nil
}
