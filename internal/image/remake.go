// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// layeredName is the name of an archive of an earlier release, whose layers are
// not flattened.
var layeredName = regexp.MustCompile(`^[0-9a-f]{64}\.tar$`)

// remakeArchives makes the archives of an earlier release anew, with flattened
// layers, so that their images need not be pulled again. An archive that cannot be
// remade is removed, and its image is pulled when somebody asks for it.
func (s *builder) remakeArchives(ctx context.Context, notify func(uids []string)) {
	entries, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return // the next pull reports it
	}
	for _, e := range entries {
		if !layeredName.MatchString(e.Name()) {
			continue
		}
		digest := v1.Hash{Algorithm: "sha256", Hex: strings.TrimSuffix(e.Name(), ".tar")}
		path := filepath.Join(s.o.Dir, e.Name())
		err := s.remake(ctx, path, digest)
		if ctx.Err() != nil {
			return // the next start goes on
		}
		if err != nil {
			s.o.Log.Info("Removed an image archive of an earlier release, because it cannot be converted; the image is pulled again when it is needed", "digest", digest.String(), "reason", err.Error())
		}
		if err := os.Remove(path); err != nil {
			s.o.Log.Error(err, "Failed to remove an image archive of an earlier release", "digest", digest.String())
		}
		s.o.Metrics.measure(s.files, s.partials)
		notify([]string{""}) // anybody may wait for it
	}
}

func (s *builder) remake(ctx context.Context, path string, digest v1.Hash) error {
	if _, ok := s.present(digest.String(), formArchive); ok {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	entries, err := scanArchive(f)
	if err != nil {
		return err
	}
	c, img, err := entries.saved(f)
	if err != nil {
		return err
	}
	img.digest = digest
	room := &space{dir: s.o.Dir, reserve: s.o.Reserve}
	if err := room.check(2 * info.Size()); err != nil {
		return err
	}
	if err := s.writeArchive(ctx, c, img, room, func(int64) {}); err != nil {
		return fmt.Errorf("archive of an earlier release: %w", s.diskError(err))
	}
	return nil
}
