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
// Each machine made of it says so in its own folder beside unpackedDir.
var (
	machinesDir  = filepath.Join(".cache", "smolvm", "vms")
	unpackedName = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

const (
	unpackedDir = "_shared"
	// unpackedGone is behind the name of one that is being removed.
	removingSuffix = ".gone"
	// unpackedUse is the file of a machine that holds the folder's path.
	useFile = ".pack-shared"
	// unpackedSum is what is behind the folder's name for a file that holds
	// the artifact's SHA-256. Releases that do not write it are not swept.
	//
	// It stays when the folder goes, and so do the other files beside it, a
	// few bytes each: smolvm (1.9.1 and 1.32.2) unpacks anew when the folder
	// alone is gone. It may be doing so just then, under a lock that is not
	// ours, and a folder whose new sum was taken away would never be swept.
	// Its .lock must never go: another would lock a file that nobody sees.
	sumSuffix   = ".artifact-sha256"
	maxUseBytes = 4096
)

// sweepUnpacked removes what smolvm unpacked of artifacts that are neither in
// the store any more nor what a machine was made of.
func (s *Store) sweepUnpacked(ctx context.Context, c *collection) {
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
	if err != nil { // a machine may be made of any of them
		addError(err)
		return
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), removingSuffix) { // of an agent that died
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

func (s *Store) removeUnpacked(ctx context.Context, shared string, e fs.DirEntry) (bool, error) {
	info, err := e.Info()
	if err != nil || s.o.Clock.Since(info.ModTime()) < s.o.GCMinAge {
		return false, err // or young
	}
	sum, err := readLine(shared, e.Name()+sumSuffix)
	if err != nil {
		return false, err
	}
	if _, stored := s.present("sha256:"+sum, formArtifact); stored {
		return false, nil // a machine may be made of it just now
	}
	// At once, for smolvm: nobody is to find half of it.
	path, gone := filepath.Join(shared, e.Name()), e.Name()+removingSuffix
	if err := os.Rename(path, filepath.Join(shared, gone)); err != nil {
		return false, err
	}
	// Its folders are as deep as the artifact has them.
	return true, untrusted.RemoveAll(ctx, shared, gone)
}

// unpackedInUse are the names of the folders that machines say they use. An
// error means that it is not known.
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

// readWord reads a file of one short line from a folder that may be a VMM's
// own: whoever broke out of a machine may have put anything there.
func readLine(machines, name string) (string, error) {
	raw, err := untrusted.ReadFile(machines, name, maxUseBytes)
	return strings.TrimSpace(string(raw)), err
}
