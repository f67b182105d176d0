// SPDX-License-Identifier: Apache-2.0

// Package smolfile renders the Smolfile from which smolvm creates a machine. It
// uses only the schema of smolvm 0.8.0, so that every release can read the file.
// It is pure: it writes no file and does not run smolvm. It does not handle the
// image, entrypoint and command, which are passed as flags, or Secrets, which
// are passed by reference. No input can make it allow another destination than
// the bundle.
package smolfile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/pelletier/go-toml/v2"

	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// Smolfile holds what a Bottle's machine is created with.
type Smolfile struct {
	// Env holds literal values by name.
	Env map[string]string
	// BundleIP is the only address that the guest may reach. It is IPv4.
	BundleIP netip.Addr
	// Size is written except for its zeros, which select smolvm's defaults.
	machinesize.Size
}

// document is the file. Render can write no other keys.
type document struct {
	Env []string `toml:"env,multiline"`
	machinesize.Size
	Network network `toml:"network"`
}

type network struct {
	AllowCIDRs []string `toml:"allow_cidrs"`
}

// Render returns the file's content as UTF-8, with one env entry per line, sorted
// by name. It returns the same bytes for equal Smolfiles. If a variable cannot
// be passed, the error is a *guestenv.VarError for the first such name; it never
// contains the value.
func Render(s Smolfile) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	env := make([]string, 0, len(s.Env))
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if err := guestenv.Check(guestenv.Var{Name: name, Value: s.Env[name]}); err != nil {
			return nil, err
		}
		env = append(env, name+"="+s.Env[name])
	}
	out, err := toml.Marshal(document{
		Env:     env,
		Size:    s.Size,
		Network: network{AllowCIDRs: []string{netip.PrefixFrom(s.BundleIP, 32).String()}},
	})
	if err != nil {
		return nil, fmt.Errorf("smolfile: %w", err)
	}
	return out, nil
}

func (s Smolfile) check() error {
	switch {
	case !s.BundleIP.Is4():
		return fmt.Errorf("smolfile: bundle address %s: want an IPv4 address", s.BundleIP)
	case s.BundleIP.IsUnspecified():
		return fmt.Errorf("smolfile: bundle address %s: is the unspecified address", s.BundleIP)
	}
	if err := s.Size.Check(); err != nil {
		return fmt.Errorf("smolfile: %w", err)
	}
	return nil
}
