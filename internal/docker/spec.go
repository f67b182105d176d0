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
	// specHashLabel is the label with the hash of the options that a container
	// was created with. Docker rewrites many of the options, so they cannot be
	// compared directly.
	specHashLabel = "botbottle.dev/spec-hash"

	logSize  = "10m"
	logFiles = "2"
)

// createOptions returns the options to create the container of spec from image,
// which is a reference.
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
		// The agent itself restarts a container that has ended, and reports it.
		// Docker would restart it without the agent knowing, and after a boot
		// before the node's walls stand.
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		SecurityOpt:   []string{"no-new-privileges:true"},
		LogConfig: container.LogConfig{
			Type:   "json-file",
			Config: map[string]string{"max-size": logSize, "max-file": logFiles},
		},
	}
	if spec.Image == "" {
		harden(config, hostConfig, spec)
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
	// config.Labels is part of options: compute the hash before it is added to
	// the labels.
	hash, err := specHash(options)
	if err != nil {
		return client.ContainerCreateOptions{}, err
	}
	config.Labels[specHashLabel] = hash
	// Limits are not part of the hash: equalLimits compares them, and they can be
	// changed without replacing the container.
	hostConfig.Resources = resourcesOf(spec.Limits)
	// The MAC address is not part of the hash: it follows from the IP address,
	// and equalBundle checks it. So a container that an earlier release made with
	// this very address can stay. A Docker Engine older than 25 ignores this
	// field and derives the same address itself.
	options.NetworkingConfig.EndpointsConfig[options.Name].MacAddress = network.HardwareAddr(host.BundleMAC(spec.IP))
	return options, nil
}

// harden restricts the built-in bundle to what it needs: to listen on a high
// port, to dial, and to read its rules and secrets.
func harden(config *container.Config, hostConfig *container.HostConfig, spec host.BundleSpec) {
	config.User = bundleimage.User
	hostConfig.ReadonlyRootfs = true
	hostConfig.CapDrop = []string{"ALL"}
	// Mount folders, not files, so that the bundle sees a new file that is renamed over
	// the old one.
	for _, m := range []mount.Mount{{Source: spec.RulesDir, Target: bundleimage.RulesDir}, {Source: spec.SecretsDir, Target: bundleimage.SecretsDir}} {
		if m.Source != "" {
			m.Type, m.ReadOnly = mount.TypeBind, true
			hostConfig.Mounts = append(hostConfig.Mounts, m)
		}
	}
}

// specHash returns the hash of all options but the MAC address and the limits,
// which must not be set yet. Env values cannot be read from it.
func specHash(options client.ContainerCreateOptions) (string, error) {
	text, err := json.Marshal(options)
	if err != nil {
		return "", fmt.Errorf("hash container %q: %w", options.Name, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// checkEnv refuses entries that docker would refuse with the value in its error,
// and entries that docker would take as an order to remove a variable.
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
