// SPDX-License-Identifier: Apache-2.0

// Package smolfile renders the file from which smolvm creates a machine, in
// the schema of smolvm 0.8.0 and nothing newer, so that one file fits every
// release. It is pure: it writes no file and runs no smolvm, and it does not
// know image, entrypoint or command, which go as flags, nor Secrets, which go
// by reference. Nothing that goes in can make it name another destination
// than the bundle.
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

// Bounds of what a machine may be asked to have; smolvm's own.
const (
	MaxCPUs      = 16
	MinMemoryMiB = 64
	maxMemoryMiB = math.MaxUint32
)

// Smolfile is what a Bottle's machine is created with.
type Smolfile struct {
	// Env holds literal values by name.
	Env map[string]string
	// BundleIP is the one address that the guest may reach; IPv4.
	BundleIP netip.Addr
	// CPUs, MemoryMiB, StorageGiB and OverlayGiB are written only when they
	// were asked for; 0 leaves them to smolvm.
	CPUs       int
	MemoryMiB  int64
	StorageGiB int64
	OverlayGiB int64
}

// document is the file; its keys are all that Render can write.
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

// Render is the file's content: the same bytes for the same Smolfile, UTF-8,
// one env entry per line, sorted by name. A variable that cannot be passed is
// a *guestenv.VarError, the first by name; it never tells the value.
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
		return fmt.Errorf("smolfile: bundle address %s: names no host", s.BundleIP)
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

// MiB is a number of bytes in smolvm's unit for memory, rounded up.
func MiB(bytes int64) int64 { return ceil(bytes, 1<<20) }

// GiB is a number of bytes in smolvm's unit for disks, rounded up.
func GiB(bytes int64) int64 { return ceil(bytes, 1<<30) }

func ceil(n, unit int64) int64 {
	q := n / unit
	if n%unit > 0 {
		q++
	}
	return q
}
