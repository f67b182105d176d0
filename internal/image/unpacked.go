// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// smolvm unpacks an artifact once for all its machines, into a folder of
// unpackedDir that is named by the artifact's checksum, and never removes it.
// Each machine made of it says so in its own folder beside unpackedDir.
var (
	machinesDir  = filepath.Join(".cache", "smolvm", "vms")
	unpackedName = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

const (
	unpackedDir = "_shared"
	// unpackedUse is the file of a machine that holds the folder's path.
	unpackedUse = ".pack-shared"
	// unpackedSum is what is behind the folder's name for a file that holds
	// the artifact's SHA-256. Releases that do not write it are not swept.
	unpackedSum = ".artifact-sha256"
	maxUseBytes = 4096
)

// sweepUnpacked removes what smolvm unpacked of artifacts that are neither in
// the store any more nor what a machine was made of.
func (s *Store) sweepUnpacked(out *Collected) error {
	if s.o.SmolvmHome == "" {
		return nil
	}
	root, err := os.OpenRoot(filepath.Join(s.o.SmolvmHome, machinesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("smolvm's artifacts: %w", err)
	}
	defer func() { _ = root.Close() }() // a folder only
	entries, err := fs.ReadDir(root.FS(), unpackedDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.removeUnpacked(root, entries, out)
	}
	if err != nil {
		return fmt.Errorf("smolvm's artifacts: %w", err)
	}
	return nil
}

func (s *Store) removeUnpacked(root *os.Root, entries []fs.DirEntry, out *Collected) error {
	used, err := unpackedInUse(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !unpackedName.MatchString(e.Name()) || used[e.Name()] {
			continue
		}
		info, err := e.Info()
		if err != nil || s.o.Clock.Since(info.ModTime()) < s.o.GCMinAge {
			continue // gone meanwhile, or young
		}
		name := filepath.Join(unpackedDir, e.Name())
		sum, err := root.ReadFile(name + unpackedSum)
		if err != nil {
			continue
		}
		if _, stored := s.present("sha256:"+strings.TrimSpace(string(sum)), formArtifact); stored {
			continue // a machine may be made of it just now
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		out.Cached++
	}
	return nil
}

// unpackedInUse are the names of the folders that machines say they use. An
// error means that it is not known.
func unpackedInUse(root *os.Root) (map[string]bool, error) {
	machines, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, m := range machines {
		raw, err := root.ReadFile(filepath.Join(m.Name(), unpackedUse))
		switch {
		case err == nil && len(raw) <= maxUseBytes:
			used[filepath.Base(strings.TrimSpace(string(raw)))] = true
		case err == nil:
			return nil, fmt.Errorf("%s of %s makes no sense", unpackedUse, m.Name())
		case !errors.Is(err, fs.ErrNotExist) && m.IsDir():
			return nil, err
		}
	}
	return used, nil
}
