// SPDX-License-Identifier: Apache-2.0

// Package fault reads the faults that a test requests from
// $HOME/.standin/faults.json. The stand-in reads the file on each call. An absent
// file means no faults. The package injects nothing itself: each command checks
// for its faults.
package fault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Faults is the content of the file. An unknown key is an error, so that a
// misspelt fault cannot make a test pass.
type Faults struct {
	// NoKVM makes start fail as on a host without /dev/kvm.
	NoKVM bool `json:"no_kvm,omitempty"`
	// StartHang makes start wait forever while its VMM boots.
	StartHang bool `json:"start_hang,omitempty"`
	// StartKilledLeavesVMM makes start die from SIGKILL after the VMM is running
	// but before the record says so.
	StartKilledLeavesVMM bool `json:"start_killed_leaves_vmm,omitempty"`
	// BootFailures is the number of starts that fail before one succeeds.
	BootFailures int `json:"boot_failures,omitempty"`
	SlowStartMS  int `json:"slow_start_ms,omitempty"`
	// SlowListMS delays every ls and status --json.
	SlowListMS int `json:"slow_ls_ms,omitempty"`
	// Unreachable names machines whose agent does not answer; "*" means all.
	Unreachable []string `json:"unreachable,omitempty"`
	// StopStuck names machines whose VMM survives every stop.
	StopStuck []string `json:"stop_stuck,omitempty"`
	// UnknownState names machines that are shown in an unknown state.
	UnknownState []string `json:"unknown_state,omitempty"`
	// DatabaseLocked is the number of writing calls that fail immediately.
	DatabaseLocked int `json:"database_locked,omitempty"`
	// JSONExtraKeys adds keys of a future release to every object.
	JSONExtraKeys bool `json:"json_extra_keys,omitempty"`
	// StderrNoise makes every call write a coloured warning to stderr.
	StderrNoise bool `json:"stderr_noise,omitempty"`
	// ImageSeedMachine lists a hidden machine that belongs to smolvm itself.
	ImageSeedMachine bool `json:"image_seed_machine,omitempty"`
}

// Path returns the path of the file below home.
func Path(home string) string { return filepath.Join(home, ".standin/faults.json") }

// Read returns the faults in force below home.
func Read(home string) (*Faults, error) {
	b, err := os.ReadFile(Path(home))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return &Faults{}, nil
	}
	if err != nil {
		return nil, err
	}
	return parse(b)
}

func parse(b []byte) (*Faults, error) {
	f := &Faults{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return nil, fmt.Errorf("faults.json: %w", err)
	}
	return f, nil
}

// Matches reports whether list contains name or "*".
func Matches(list []string, name string) bool {
	return slices.Contains(list, name) || slices.Contains(list, "*")
}

// Take decrements the counter of a fault, which pick returns, and reports whether
// it was above zero. Concurrent callers never take the same one.
func Take(home string, pick func(*Faults) *int) (bool, error) {
	f, err := Read(home)
	if err != nil || *pick(f) <= 0 {
		return false, err
	}
	lock, err := os.OpenFile(Path(home)+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return false, err
	}
	if f, err = Read(home); err != nil || *pick(f) <= 0 {
		return false, err
	}
	*pick(f)--
	b, err := json.Marshal(f)
	if err != nil {
		return false, err
	}
	tmp := fmt.Sprintf("%s.%d", Path(home), os.Getpid())
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return false, err
	}
	return true, os.Rename(tmp, Path(home))
}
