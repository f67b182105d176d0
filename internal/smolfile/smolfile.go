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
	"math"
	"net/netip"
	"slices"

	"github.com/pelletier/go-toml/v2"

	"botbottle.dev/bottle-operator/internal/guestenv"
)

// smolvm's limits on the size of a machine.
const (
	MaxCPUs      = 16
	MinMemoryMiB = 64
	maxMemoryMiB = math.MaxUint32
)

// Smolfile holds what a Bottle's machine is created with.
type Smolfile struct {
	// Env holds literal values by name.
	Env map[string]string
	// BundleIP is the only address that the guest may reach. It is IPv4.
	BundleIP netip.Addr
	// CPUs, MemoryMiB, StorageGiB and OverlayGiB are written only if they are not
	// 0; 0 selects smolvm's default.
	CPUs       int
	MemoryMiB  int64
	StorageGiB int64
	OverlayGiB int64
}

// document is the file. Render can write no other keys.
type document struct {
	Env     []string `toml:"env,multiline"`
	CPUs    int      `toml:"cpus,omitempty"`
	Memory  int64    `toml:"memory,omitempty"`
	Storage int64    `toml:"storage,omitempty"`
	Overlay int64    `toml:"overlay,omitempty"`
	Network network  `toml:"network"`
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
		CPUs:    s.CPUs,
		Memory:  s.MemoryMiB,
		Storage: s.StorageGiB,
		Overlay: s.OverlayGiB,
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
	case s.CPUs < 0 || s.CPUs > MaxCPUs:
		return fmt.Errorf("smolfile: cpus %d: want 1 to %d", s.CPUs, MaxCPUs)
	case s.MemoryMiB != 0 && (s.MemoryMiB < MinMemoryMiB || s.MemoryMiB > maxMemoryMiB):
		return fmt.Errorf("smolfile: memory %d MiB: want at least %d", s.MemoryMiB, MinMemoryMiB)
	case s.StorageGiB < 0:
		return fmt.Errorf("smolfile: storage %d GiB: want at least 1", s.StorageGiB)
	case s.OverlayGiB < 0:
		return fmt.Errorf("smolfile: overlay %d GiB: want at least 1", s.OverlayGiB)
	}
	return nil
}

// MiB converts bytes to smolvm's unit for memory, rounding up.
func MiB(bytes int64) int64 { return ceil(bytes, 1<<20) }

// GiB converts bytes to smolvm's unit for disks, rounding up.
func GiB(bytes int64) int64 { return ceil(bytes, 1<<30) }

func ceil(n, unit int64) int64 {
	q := n / unit
	if n%unit > 0 {
		q++
	}
	return q
}
