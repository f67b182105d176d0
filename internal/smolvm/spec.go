// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

// checkSpec refuses what smolvm takes at create and fails with at start, in
// words that do not tell why.
func checkSpec(s host.MachineSpec) error {
	if err := ours(s.Owner.ID()); err != nil {
		return err
	}
	if err := checkArtifact(s); err != nil {
		return err
	}
	if err := checkPaths(s); err != nil || s.Image == "" {
		return err
	}
	return checkImage(s.Image)
}

func checkPaths(s host.MachineSpec) error {
	var paths []string
	if s.Artifact == "" {
		paths = append(paths, s.Smolfile)
	}
	for _, f := range s.Secrets {
		paths = append(paths, f.Path)
	}
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("%q is not an absolute path: %w", p, host.ErrInvalid)
		}
	}
	for _, m := range s.Mounts {
		for _, p := range []string{m.Source, m.Target} {
			if !filepath.IsAbs(p) || strings.Contains(p, ":") {
				return fmt.Errorf("mount %q: not an absolute path without a colon: %w", p, host.ErrInvalid)
			}
		}
	}
	return nil
}

func checkImage(path string) error {
	st, err := regular("image", path)
	if err == nil && st.Mode()&0o004 == 0 {
		// smolvm would keep the unreadable copy for good.
		err = fmt.Errorf("image %s is not readable by the users that machines run as (mode %04o): chmod 0644: %w",
			path, st.Mode().Perm(), host.ErrInvalid)
	}
	return err
}

// regular refuses what is no plain file. Links are not followed: older
// releases keep the link itself in their cache.
func regular(what, path string) (os.FileInfo, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s %q is not an absolute path: %w", what, path, host.ErrInvalid)
	}
	st, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", what, host.ErrInvalid, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %s is not a regular file: %w", what, path, host.ErrInvalid)
	}
	return st, nil
}
