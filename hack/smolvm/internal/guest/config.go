// SPDX-License-Identifier: Apache-2.0

// Package guest implements the inside of a machine. Its process stands in for
// both the VMM and the guest's init, because it is the first process in its own
// pid and mount namespaces. It makes the root file system, serves agent.sock and
// runs the requested commands. It separates nothing but files and pids: the guest
// uses the network of the process that started the machine and the host's kernel,
// and root in the guest keeps most of root's capabilities.
package guest

import (
	"encoding/json"
	"fmt"
	"os"
)

// Config is the content of boot-config.json: what the process needs before it
// serves requests. It contains no environment and no secrets.
type Config struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// Rootfs is the unpacked image or the bare root. Machines share it and never
	// write to it.
	Rootfs string  `json:"rootfs"`
	Mounts []Mount `json:"mounts,omitempty"`
	// Resolver is written to /etc/resolv.conf when not empty.
	Resolver string `json:"resolver,omitempty"`
	// Connections is how many requests are served concurrently; 0 = no limit.
	Connections int `json:"connections,omitempty"`
	// FailBoot and Hang are injected faults. FailBoot ends the process before it
	// answers; Hang keeps it from answering.
	FailBoot bool `json:"fail_boot,omitempty"`
	Hang     bool `json:"hang,omitempty"`
}

// Mount is a host directory to mount in the guest.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Write writes the configuration to path, for the machine's process to read.
func (c *Config) Write(path string) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

func readConfig(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}
