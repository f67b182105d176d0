// SPDX-License-Identifier: Apache-2.0

// Package guest is the inside of a machine: the process that stands for the
// VMM and, being the first of its own pid and mount namespaces, for the
// guest's init at once. It makes the root filesystem, answers agent.sock and
// runs what it is asked to. It separates nothing but files and pids: the
// network is that of whoever started the machine, the kernel the host's, and
// root inside keeps most of root's powers.
package guest

import (
	"encoding/json"
	"fmt"
	"os"
)

// Config is boot-config.json: what the process needs before anything talks to
// it. It holds no environment and no secret.
type Config struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// Rootfs is the unpacked image or the bare root, shared and never written.
	Rootfs string  `json:"rootfs"`
	Mounts []Mount `json:"mounts,omitempty"`
	// Resolver is written to /etc/resolv.conf when not empty.
	Resolver string `json:"resolver,omitempty"`
	// Connections is how many requests are served at once; 0 = no limit.
	Connections int `json:"connections,omitempty"`
	// FailBoot ends the process before it answers, Hang keeps it from
	// answering: faults that a test asked for.
	FailBoot bool `json:"fail_boot,omitempty"`
	Hang     bool `json:"hang,omitempty"`
}

// Mount is one host directory to show in the guest.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// Write stores the configuration for the process to be started.
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
