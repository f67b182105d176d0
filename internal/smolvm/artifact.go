// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"botbottle.dev/bottle-operator/internal/host"
)

// Bounds of what a command line carries: the kernel's for one word, and half
// of what it grants all words and the environment together by default.
const (
	maxWord = 128<<10 - 1
	maxEnv  = 1 << 20
)

// checkArtifact refuses what `machine create --from` refuses, takes for
// something else, or drops.
func checkArtifact(s host.MachineSpec) error {
	if s.Artifact == "" {
		if len(s.Env) > 0 || s.AllowCIDR.IsValid() {
			return fmt.Errorf("env and an address beside a Smolfile, which has them: %w", host.ErrInvalid)
		}
		return nil
	}
	if s.Image != "" || s.Smolfile != "" {
		return fmt.Errorf("an artifact beside an image or a Smolfile: %w", host.ErrInvalid)
	}
	if !s.AllowCIDR.IsValid() {
		return fmt.Errorf("an artifact without the addresses that it may reach: %w", host.ErrInvalid)
	}
	// A folder is a checkpoint to recent releases.
	if _, err := regular("artifact", s.Artifact); err != nil {
		return err
	}
	return checkEnv(s.Env)
}

// checkEnv refuses entries that a flag does not carry. Those without a name or
// "=" smolvm drops, or fills from its own environment. The error has no value.
func checkEnv(env []string) error {
	size := 0
	for i, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		size += len(kv)
		switch {
		case !ok || name == "":
			return fmt.Errorf("env entry %d has no name or no value: %w", i+1, host.ErrInvalid)
		case strings.ContainsRune(kv, 0) || !utf8.ValidString(kv):
			return fmt.Errorf("env %s: has a NUL or is not UTF-8: %w", clean(name), host.ErrInvalid)
		case len("--env=")+len(kv) > maxWord:
			return fmt.Errorf("env %s: longer than %d bytes: %w", clean(name), maxWord, host.ErrInvalid)
		}
	}
	if size > maxEnv {
		return fmt.Errorf("env: %d bytes, over %d in all: %w", size, maxEnv, host.ErrInvalid)
	}
	return nil
}
