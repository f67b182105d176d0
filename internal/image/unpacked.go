// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"botbottle.dev/bottle-operator/internal/untrusted"
)

// smolvm unpacks an artifact once for all its machines, into a folder of
// unpackedDir that is named by the artifact's checksum, and never removes it.
// Each machine that is made from the artifact records the folder's path in its
// own folder beside unpackedDir.
var (
	machinesDir  = filepath.Join(".cache", "smolvm", "vms")
	unpackedName = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

const (
	unpackedDir = "_shared"
	// removingSuffix ends the name of a folder that is being removed.
	removingSuffix = ".gone"
	// useFile is the file in a machine's folder that holds the path of the
	// unpacked artifact.
	useFile = ".pack-shared"
	// sumSuffix ends the name of the file beside the folder that holds the
	// artifact's SHA-256. The folders of smolvm releases that do not write it
	// are not swept.
	//
	// The file stays when the folder is removed, and so do the other files
	// beside it, a few bytes each: smolvm (1.9.1 and 1.32.2) unpacks again if
	// only the folder is missing. It may be doing so at that moment, under a
	// lock that this package does not hold, and a folder would never be swept
	// if its new sum file were removed. Its .lock must never be removed:
	// another process would then lock a new file while the first still holds
	// the old one.
	sumSuffix   = ".artifact-sha256"
	maxUseBytes = 4096
)

// sweepUnpacked removes the unpacked artifacts that are no longer in the store
// and that no machine was made from.
func (s *remover) sweepUnpacked(ctx context.Context, c *collection) {
	if s.o.SmolvmHome == "" {
		return
	}
	addError := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.addError(fmt.Errorf("smolvm's artifacts: %w", err))
		}
	}
	machines := filepath.Join(s.o.SmolvmHome, machinesDir)
	shared := filepath.Join(machines, unpackedDir)
	entries, err := os.ReadDir(shared)
	if err != nil {
		addError(err)
		return
	}
	used, err := unpackedInUse(machines)
	if err != nil { // any of them may be in use
		addError(err)
		return
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), removingSuffix) { // left by an agent that died
			addError(untrusted.RemoveAll(ctx, shared, e.Name()))
			continue
		}
		if !e.IsDir() || !unpackedName.MatchString(e.Name()) || used[e.Name()] {
			continue
		}
		removed, err := s.removeUnpacked(ctx, shared, e)
		addError(err)
		if removed {
			c.Cached++
		}
	}
}

func (s *remover) removeUnpacked(ctx context.Context, shared string, e fs.DirEntry) (bool, error) {
	info, err := e.Info()
	if err != nil || s.o.Clock.Since(info.ModTime()) < s.o.GCMinAge {
		return false, err // nil if the folder is too young
	}
	sum, err := readLine(shared, e.Name()+sumSuffix)
	if err != nil {
		return false, err
	}
	if _, stored := s.present("sha256:"+sum, formArtifact); stored {
		return false, nil // a machine may be about to be made from it
	}
	// Rename it first, so that smolvm never finds a half-removed folder.
	path, gone := filepath.Join(shared, e.Name()), e.Name()+removingSuffix
	if err := os.Rename(path, filepath.Join(shared, gone)); err != nil {
		return false, err
	}
	// The artifact determines how deep its folders are.
	return true, untrusted.RemoveAll(ctx, shared, gone)
}

// unpackedInUse returns the names of the folders that machines say they use.
// With an error, the use is not known.
func unpackedInUse(machines string) (map[string]bool, error) {
	entries, err := os.ReadDir(machines)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, m := range entries {
		if !m.IsDir() {
			continue
		}
		path, err := readLine(machines, filepath.Join(m.Name(), useFile))
		switch {
		case err == nil:
			used[filepath.Base(path)] = true
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return used, nil
}

// readLine reads a file of one short line from a folder that may belong to a
// VMM: whoever broke out of a machine may have put anything there.
func readLine(machines, name string) (string, error) {
	raw, err := untrusted.ReadFile(machines, name, maxUseBytes)
	return strings.TrimSpace(string(raw)), err
}
