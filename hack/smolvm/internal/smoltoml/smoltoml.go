// SPDX-License-Identifier: Apache-2.0

// Package smoltoml parses a Smolfile. The schema is that of release 0.8.0 plus
// the later keys that the stand-in supports. Unknown keys are errors. Like in
// smolvm, an error contains the whole offending line. The package does not
// validate what values mean: `machine create` does.
package smoltoml

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

// File is a parsed Smolfile. A pointer is nil if the key was absent.
type File struct {
	Image      *string  `toml:"image"`
	Entrypoint []string `toml:"entrypoint"`
	Cmd        []string `toml:"cmd"`
	Env        []string `toml:"env"`
	Workdir    *string  `toml:"workdir"`
	CPUs       *uint8   `toml:"cpus"`
	Memory     *uint32  `toml:"memory"`
	Net        *bool    `toml:"net"`
	GPU        *bool    `toml:"gpu"`
	GPUVRAM    *uint32  `toml:"gpu_vram"`
	machine.Disks
	Ports    []string  `toml:"ports"`
	Volumes  []string  `toml:"volumes"`
	Init     []string  `toml:"init"`
	Artifact *artifact `toml:"artifact"`
	Pack     *artifact `toml:"pack"`
	Dev      Dev       `toml:"dev"`
	Network  Network   `toml:"network"`
	Health   *Health   `toml:"health"`
	Restart  *Restart  `toml:"restart"`
	Auth     *auth     `toml:"auth"`
	Service  *service  `toml:"service"`
}

// Dev replaces or extends top-level settings for development.
type Dev struct {
	Volumes []string `toml:"volumes"`
	Env     []string `toml:"env"`
	Init    []string `toml:"init"`
	Workdir *string  `toml:"workdir"`
	Ports   []string `toml:"ports"`
}

// Network is the egress policy.
type Network struct {
	AllowHosts []string `toml:"allow_hosts"`
	AllowCIDRs []string `toml:"allow_cidrs"`
}

// Health is stored and shown, never acted on.
type Health struct {
	Exec         []string `toml:"exec"`
	Interval     *string  `toml:"interval"`
	Timeout      *string  `toml:"timeout"`
	Retries      *int     `toml:"retries"`
	StartupGrace *string  `toml:"startup_grace"`
}

// Restart is stored and shown, never acted on.
type Restart struct {
	Policy     string  `toml:"policy"`
	MaxRetries int     `toml:"max_retries"`
	MaxBackoff *string `toml:"max_backoff"`
}

type artifact struct {
	CPUs        *uint8   `toml:"cpus"`
	Memory      *uint32  `toml:"memory"`
	Entrypoint  []string `toml:"entrypoint"`
	Cmd         []string `toml:"cmd"`
	OCIPlatform *string  `toml:"oci_platform"`
}

type auth struct {
	SSHAgent *bool `toml:"ssh_agent"`
}

type service struct {
	Port     *int    `toml:"port"`
	Protocol *string `toml:"protocol"`
	Listen   *string `toml:"listen"`
}

// Load reads and parses the file at path. Its errors have the text that smolvm
// prints after "load smolfile: ".
func Load(path string) (*File, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("failed to read %s: %w", path, state.Rust(withoutPath(err)))
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("failed to read %s: stream did not contain valid UTF-8", path)
	}
	f, err := Parse(string(b))
	if err != nil {
		return nil, fmt.Errorf("failed to parse %s: %w", path, err)
	}
	return f, nil
}

// withoutPath removes the path that package os puts before a system error.
func withoutPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Parse parses the text of a Smolfile.
func Parse(text string) (*File, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	f := &File{}
	d := toml.NewDecoder(strings.NewReader(text)).DisallowUnknownFields()
	err := d.Decode(f)
	if err == nil {
		return f, nil
	}
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		return nil, unknownField(text, &strict.Errors[0])
	}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		return nil, withPosition(text, at, reword(text, at))
	}
	return nil, err
}
