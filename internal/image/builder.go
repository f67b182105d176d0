// SPDX-License-Identifier: Apache-2.0

package image

import "context"

// builder makes the files of the store.
type builder struct {
	o *Options
	*catalog
	partials *partials
}

// fetchImage writes the image's archive into the store.
func (s *builder) fetchImage(ctx context.Context, c content, img *image, f *fetch) error {
	total := img.compressed()
	room := &space{dir: s.o.Dir, reserve: s.o.Reserve}
	if err := room.check(2 * total); err != nil {
		return err
	}
	f.setTotal(total)
	return s.writeArchive(ctx, c, img, room, f.add)
}

// writeArchive writes the image's archive into the store, and verifies all of it.
func (s *builder) writeArchive(ctx context.Context, c content, img *image, room *space, progress func(int64)) error {
	t, err := s.newTemporary()
	if err != nil {
		return err
	}
	defer t.discard()
	w := &archive{f: t.File, dir: s.o.Dir, maxBytes: s.o.MaxBytes, space: room}
	if err := w.writeImage(ctx, c, img, progress); err != nil {
		return err
	}
	return s.keep(t, img.digest.String(), formArchive)
}
