// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
)

// checkSpec rejects what smolvm accepts at create but fails on at start, without
// a message that explains why.
func checkSpec(s host.MachineSpec) error {
	if err := checkName(s.Owner.ID()); err != nil {
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
	st, err := statRegular("image", path)
	if err == nil && st.Mode()&0o004 == 0 {
		// smolvm would keep the unreadable copy forever.
		err = fmt.Errorf("image %s is not readable by the users that machines run as (mode %04o): chmod 0644: %w",
			path, st.Mode().Perm(), host.ErrInvalid)
	}
	return err
}

// statRegular returns an error unless path is an absolute path of a regular
// file. It does not follow links: older releases keep the link itself in their
// cache.
func statRegular(what, path string) (os.FileInfo, error) {
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
