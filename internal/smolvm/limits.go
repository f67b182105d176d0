// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// Limits on what smolvm takes from an image or an artifact.
const (
	// defaultImageBytes is smolvm's own limit for an image archive.
	defaultImageBytes = 8 << 30
	// minUnpackedBytes may always be unpacked from an artifact, however small
	// the artifact is.
	minUnpackedBytes = 256 << 20
	// maxRatio is how many times its size an artifact may be when unpacked.
	// Programs and text shrink to between a half and a tenth, repetitive logs
	// to a fiftieth; only something like a file of zeros shrinks more.
	maxRatio = 100
	// minUnpackedFiles may always be unpacked from an artifact. A larger
	// artifact may have one file for each bytesPerFile of its limit.
	minUnpackedFiles = 100_000
	bytesPerFile     = 4 << 10
)

// The variables with which smolvm takes limits. It applies those of artifacts to
// the archive in the artifact, and then to each layer in that.
const (
	imageLimitVariable = "SMOLVM_MAX_IMAGE_BYTES"
	bytesLimitVariable = "SMOLVM_PACK_MAX_EXTRACT_BYTES"
	filesLimitVariable = "SMOLVM_PACK_MAX_ENTRIES"
)

// errUnpacksTooLarge is the kind of smolvm's message that an artifact exceeds a
// limit of its unpacked size.
var errUnpacksTooLarge = fmt.Errorf("%w: it unpacks to more than allowed", host.ErrInvalid)

// checkImageLimit returns an error if this release cannot be told to take an image
// archive of size bytes. Others are told with imageLimitVariable.
func (c capabilities) checkImageLimit(size int64) error {
	if size <= defaultImageBytes || c.imageLimit {
		return nil
	}
	return fmt.Errorf("the image's archive has %s, and smolvm %s takes at most 8 GiB: install smolvm 1.4.0 or newer, or use a smaller image: %w",
		sizeText(size), c.Version, host.ErrUnsupported)
}

// createTimeoutOf is longer for an archive above smolvm's own limit, because
// smolvm hashes it.
func createTimeoutOf(size int64) time.Duration {
	return createTimeout * time.Duration(1+max(0, size-1)/defaultImageBytes)
}

// unpackLimit bounds what an artifact may become when smolvm unpacks it.
type unpackLimit struct {
	bytes int64
	// disk: the room on the disk is the reason for the limit.
	disk bool
	// ratio: the size of the artifact is the reason for the limit.
	ratio bool
}

// unpackLimit returns the limit for an artifact of size bytes. smolvm keeps the
// layers both packed and unpacked, so twice the limit must fit on the disk, for
// each of the artifacts that are unpacked at a time.
func (d *Driver) unpackLimit(size int64) (unpackLimit, error) {
	l := unpackLimit{bytes: d.opts.MaxImageBytes}
	if byRatio := max(minUnpackedBytes, size*maxRatio); byRatio < l.bytes {
		l = unpackLimit{bytes: byRatio, ratio: true}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(d.opts.Home, &fs); err != nil {
		return l, fmt.Errorf("room for an artifact: %w: %w", host.ErrUnavailable, err)
	}
	room := (int64(fs.Bavail)*fs.Bsize - max(0, d.opts.DiskReserve)) / (2 * maxSlowCreates)
	if room < l.bytes {
		l = unpackLimit{bytes: max(1, room), disk: true}
	}
	return l, nil
}

func (l unpackLimit) files() int64 { return max(minUnpackedFiles, l.bytes/bytesPerFile) }

func (l unpackLimit) env() []string {
	return []string{
		bytesLimitVariable + "=" + strconv.FormatInt(l.bytes, 10),
		filesLimitVariable + "=" + strconv.FormatInt(l.files(), 10),
	}
}

// explain adds to smolvm's error what the limit is and how to change it.
func (l unpackLimit) explain(err error) error {
	switch {
	case !errors.Is(err, errUnpacksTooLarge):
		return err
	case l.disk:
		return fmt.Errorf("the artifact does not fit on the node's disk, which has room for %s of it and %d files: make room on the node, or use a smaller artifact: %w",
			sizeText(l.bytes), l.files(), host.ErrUnavailable)
	case l.ratio:
		return fmt.Errorf("%w (%s, which is %d times the artifact's own size but at least 256 MiB, and %d files): use an artifact without large files of zeros",
			err, sizeText(l.bytes), maxRatio, l.files())
	}
	return fmt.Errorf("%w (%s, the agent's --image-max-bytes, and %d files): use a smaller artifact, or raise the flag", err, sizeText(l.bytes), l.files())
}

// sizeOf returns the size of the file at path, or 0 if there is no path.
func sizeOf(path string) (int64, error) {
	if path == "" {
		return 0, nil
	}
	st, err := os.Lstat(path)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", host.ErrInvalid, err)
	}
	return st.Size(), nil
}

// sizeText returns a size in the largest unit of which it is at least one, with
// one decimal, rounded down.
func sizeText(n int64) string {
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n < u.size {
			continue
		}
		if tenths := n % u.size * 10 / u.size; tenths > 0 {
			return fmt.Sprintf("%d.%d %s", n/u.size, tenths, u.name)
		}
		return fmt.Sprintf("%d %s", n/u.size, u.name)
	}
	return fmt.Sprintf("%d bytes", n)
}
