// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"botbottle.dev/bottle-operator/internal/host"
)

// Limits of a command line: maxArg is the kernel's limit for one argument,
// maxEnv is half of its default limit for all arguments and the environment
// together.
const (
	maxArg = 128<<10 - 1
	maxEnv = 1 << 20
)

// checkArtifact rejects specs that `machine create --from` rejects,
// misinterprets, or silently drops parts of.
func checkArtifact(s host.MachineSpec) error {
	if s.Artifact == "" {
		if len(s.Env) > 0 || s.AllowCIDR.IsValid() {
			return fmt.Errorf("env or an address next to a Smolfile, which already holds them: %w", host.ErrInvalid)
		}
		return nil
	}
	if s.Image != "" || s.Smolfile != "" {
		return fmt.Errorf("an artifact together with an image or a Smolfile: %w", host.ErrInvalid)
	}
	if !s.AllowCIDR.IsValid() {
		return fmt.Errorf("an artifact without the address that the machine may reach: %w", host.ErrInvalid)
	}
	// Recent releases treat a folder as a checkpoint.
	if _, err := statRegular("artifact", s.Artifact); err != nil {
		return err
	}
	if err := checkManifest(s.Artifact); err != nil {
		return err
	}
	return checkEnv(s.Env)
}

// checkEnv rejects entries that a flag cannot carry. smolvm drops an entry
// without a name or "=", or fills it from its own environment. The error never
// contains a value.
func checkEnv(env []string) error {
	size := 0
	for i, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		size += len(kv)
		switch {
		case !ok || name == "":
			return fmt.Errorf("env entry %d has no name or no value: %w", i+1, host.ErrInvalid)
		case strings.ContainsRune(kv, 0) || !utf8.ValidString(kv):
			return fmt.Errorf("env %s: contains a NUL or is not UTF-8: %w", clean(name), host.ErrInvalid)
		case len("--env=")+len(kv) > maxArg:
			return fmt.Errorf("env %s: longer than %d bytes: %w", clean(name), maxArg, host.ErrInvalid)
		}
	}
	if size > maxEnv {
		return fmt.Errorf("env: %d bytes in total, more than %d: %w", size, maxEnv, host.ErrInvalid)
	}
	return nil
}
