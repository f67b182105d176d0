// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"strings"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// What smolvm's data disk has room for. Its file system is ext4, as dumpe2fs shows
// it for the template of 1.32.2: blocks of 4 KiB, one inode of 256 bytes for each
// 16 KiB, a journal of 16 MiB, and no reserved blocks. The guest resizes it to the
// size of the disk.
const (
	defaultStorageGiB = 20
	diskBlock         = 4 << 10
	bytesPerInode     = 16 << 10
	inodeSize         = 256
	journalSize       = 16 << 20
	// maxScanned bounds the entries of an archive that are read. An archive with
	// more of them is not judged.
	maxScanned = 2_000_000
	// longestInlineLink is the longest target of a symbolic link that takes no
	// block.
	longestInlineLink = 59
)

// need is the least that an image takes on a machine's data disk.
type need struct{ bytes, files int64 }

// checkStorage returns host.ErrDiskTooSmall if the image in the archive cannot fit
// on a data disk of storageGiB; 0 means smolvm's default. smolvm would create the
// machine, and each boot would end in the middle of the import, with no message
// that says so.
//
// It counts only what the image must take: each file in whole blocks, without the
// metadata of folders, extents and overlays, and the disk without anything but
// what mkfs takes. So an image that fits is never refused, and one that exceeds the
// disk by less than what is not counted, usually below one percent, is not noticed.
func checkStorage(ctx context.Context, image string, storageGiB int64) error {
	st, err := os.Stat(image)
	if err != nil {
		return fmt.Errorf("image: %w: %w", host.ErrInvalid, err)
	}
	gib := cmp.Or(storageGiB, defaultStorageGiB)
	if gib > 1<<20 { // a pebibyte; avoids an overflow
		return nil
	}
	disk := gib << 30
	room := need{bytes: disk - disk/bytesPerInode*inodeSize - journalSize, files: disk / bytesPerInode}
	// A header of 512 bytes can stand for a folder, and a header and one byte for
	// a file, which take a block each.
	if st.Size() <= room.bytes/(diskBlock/512) && st.Size()/512 <= room.files {
		return nil
	}
	n, err := imageNeed(ctx, image)
	if err != nil {
		return err
	}
	size, source := fmt.Sprintf("spec.machine.storage is %d GiB", gib), "the image"
	if storageGiB == 0 {
		size = fmt.Sprintf("spec.machine.storage is not set, so smolvm makes a disk of %d GiB", gib)
	}
	const help = "raise spec.machine.storage to at least %dGi, or use a smaller image; " +
		"a Bottle that has a node keeps the disks that were booked there: delete its placeholder Pod, so that it is placed again"
	switch {
	case n.bytes > room.bytes:
		needed := machinesize.GiB(n.bytes + n.bytes/63 + journalSize)
		return fmt.Errorf("%w: %s takes at least %s when unpacked, but %s: "+help, host.ErrDiskTooSmall, source, sizeText(n.bytes), size, needed)
	case n.files > room.files:
		return fmt.Errorf("%w: %s has %d files, but %s, which has room for %d: "+help, host.ErrDiskTooSmall, source, n.files, size, room.files,
			machinesize.GiB(n.files*bytesPerInode))
	}
	return nil
}

// errNotJudged means that an archive is not of a form that imageNeed can read.
var errNotJudged = errors.New("not judged")

// imageNeed returns what the image in an archive in docker-save form takes, and
// zero for other archives. It reads only the headers.
func imageNeed(ctx context.Context, image string) (need, error) {
	f, err := os.Open(image)
	if err != nil {
		return need{}, fmt.Errorf("image: %w: %w", host.ErrInvalid, err)
	}
	defer f.Close()
	layers, err := findLayers(f)
	t := tree{ctx: ctx, seed: maphash.MakeSeed(), seen: map[uint64]seen{}, hidden: map[uint64]bool{}}
	for i := len(layers) - 1; i >= 0 && err == nil; i-- { // the uppermost layer first
		err = t.add(i, layers[i])
	}
	if ctx.Err() != nil {
		return need{}, ctx.Err()
	}
	if err != nil { // smolvm says what is wrong with the archive, if anything is
		return need{}, nil
	}
	return t.need, nil
}

// findLayers returns the layers that the archive's manifest names, in its order.
func findLayers(f *os.File) ([]*io.SectionReader, error) {
	var manifest []struct{ Layers []string }
	at := map[string]*io.SectionReader{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || len(at) > 10_000 {
			return nil, errors.Join(errNotJudged, err)
		}
		if h.Name == "manifest.json" {
			if err := json.NewDecoder(io.LimitReader(r, 4<<20)).Decode(&manifest); err != nil {
				return nil, errors.Join(errNotJudged, err)
			}
			continue
		}
		// tar.Reader reads no further than the header.
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, errors.Join(errNotJudged, err)
		}
		at[h.Name] = io.NewSectionReader(f, offset, h.Size)
	}
	if len(manifest) != 1 {
		return nil, errNotJudged
	}
	var layers []*io.SectionReader
	for _, name := range manifest[0].Layers {
		if at[name] == nil {
			return nil, errNotJudged
		}
		layers = append(layers, at[name])
	}
	return layers, nil
}

// tree adds up what the layers of an image leave when they are applied. The
// layers are added from the uppermost down: what is seen or hidden there replaces
// what lower layers have.
type tree struct {
	need
	ctx     context.Context
	seed    maphash.Seed
	entries int
	// seen are the paths of all entries so far, and hidden the paths below which
	// upper layers hide everything. The keys are hashes of the paths.
	seen   map[uint64]seen
	hidden map[uint64]bool
}

// seen is an entry that has been counted.
type seen struct {
	need
	layer int
}

func (t *tree) add(number int, layer *io.SectionReader) error {
	var hides []string // by this layer, for the lower ones
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if t.entries++; err != nil || t.entries > maxScanned || t.entries%1024 == 0 && t.ctx.Err() != nil {
			return errors.Join(errNotJudged, err)
		}
		name := path.Clean("/" + h.Name)
		dir, base := path.Split(name)
		switch {
		case base == ".wh..wh..opq":
			hides = append(hides, path.Clean(dir))
			continue
		case strings.HasPrefix(base, ".wh."):
			hides = append(hides, dir+strings.TrimPrefix(base, ".wh."))
			continue
		}
		if t.hides(name) {
			continue
		}
		key := t.hash(name)
		old, again := t.seen[key]
		if again && old.layer != number {
			continue // an upper layer has it
		}
		n := needOf(h)
		t.seen[key] = seen{n, number}
		// Within a layer, the last entry for a path counts.
		t.bytes, t.files = t.bytes+n.bytes-old.bytes, t.files+n.files-old.files
		if h.Typeflag != tar.TypeDir && number > 0 {
			hides = append(hides, name)
		}
	}
	for _, name := range hides {
		t.hidden[t.hash(name)] = true
	}
	return nil
}

// hides reports whether an upper layer hides the path.
func (t *tree) hides(name string) bool {
	if len(t.hidden) == 0 {
		return false
	}
	for ; name != "/"; name = path.Dir(name) {
		if t.hidden[t.hash(name)] {
			return true
		}
	}
	return t.hidden[t.hash("/")]
}

func (t *tree) hash(name string) uint64 { return maphash.String(t.seed, name) }

// needOf returns what an entry of a layer takes.
func needOf(h *tar.Header) need {
	n := need{files: 1}
	sparse := h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != ""
	switch {
	case h.Typeflag == tar.TypeLink:
		return need{} // the same inode
	case h.Typeflag == tar.TypeDir, h.Typeflag == tar.TypeSymlink && len(h.Linkname) > longestInlineLink:
		n.bytes = diskBlock
	case h.Typeflag == tar.TypeReg && !sparse: // holes may stay holes
		n.bytes = (h.Size + diskBlock - 1) / diskBlock * diskBlock
	}
	return n
}
