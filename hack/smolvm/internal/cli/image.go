// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"botbottle.dev/bottle-operator/hack/smolvm/internal/archive"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/machine"
	"botbottle.dev/bottle-operator/hack/smolvm/internal/state"
)

// setImage sets the machine's image from --image or the Smolfile. It hashes a local
// archive and adds it to the cache. The first start reads the archive's content.
func (d *draft) setImage() error {
	ref := d.args.Get("image")
	if ref == "" && d.file.Image != nil {
		ref = *d.file.Image
	}
	d.rec.Image = ref
	if ref == "" || !d.rel.AtLeast("1.1.0") {
		return nil
	}
	if !isLocal(ref) {
		return d.checkPull(ref)
	}
	st, err := os.Stat(ref)
	if err != nil {
		return configError("--image", "cannot read archive %s: %w", ref, state.Rust(withoutPath(err)))
	}
	if st.IsDir() {
		abs, err := filepath.Abs(ref)
		d.rec.Image = "local-dir:" + abs
		return err
	}
	if limit := d.imageLimit(); st.Size() > limit {
		return configError("--image", "image archive is %d bytes, over the %d-byte limit. Raise it with --max-image-size (e.g. --max-image-size 16GiB) "+
			"or the SMOLVM_MAX_IMAGE_BYTES env var if this is a legitimate large image.", st.Size(), limit)
	}
	sum, err := cacheArchive(d.store, ref)
	if err != nil {
		return configError("--image", "cannot read archive %s: %w", ref, state.Rust(withoutPath(err)))
	}
	d.rec.Image = "local:" + sum
	return nil
}

// imageLimit is the largest archive that is accepted. The stand-in understands a
// size only in bytes.
func (d *draft) imageLimit() int64 {
	for _, given := range []string{d.args.Get("max-image-size"), d.getenv("SMOLVM_MAX_IMAGE_BYTES")} {
		if n, err := strconv.ParseInt(given, 10, 64); err == nil && n > 0 && d.rel.AtLeast("1.4.0") {
			return n
		}
	}
	return 8 << 30
}

// checkPull rejects an image that the guest would have to pull without a network,
// in the releases that check this.
func (d *draft) checkPull(ref string) error {
	if d.rec.Network || len(d.rec.Ports) > 0 || !d.rel.AtLeast("1.7.3") || d.rel.AtLeast("1.26.1") {
		return nil
	}
	return configError("create machine", "image '%[1]s' must be pulled from a registry, but this machine has no network, so the pull can never succeed. "+
		"Add --net (or publish a port with -p, or set an egress policy with --allow-cidr/--allow-host). "+
		"To keep the machine network-isolated, supply the image locally instead: `docker save %[1]s | smolvm machine create --image - ...`", ref)
}

// isLocal reports whether ref is an archive or a folder, not a registry reference.
func isLocal(ref string) bool {
	for _, p := range []string{"/", "./", "../"} {
		if strings.HasPrefix(ref, p) {
			return true
		}
	}
	for _, s := range []string{".tar", ".tar.gz", ".tgz"} {
		if strings.HasSuffix(ref, s) {
			return true
		}
	}
	return false
}

// withoutPath removes the path that package os puts before a system error.
func withoutPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// cacheArchive hashes the file, adds it to the cache as …/<hash>/archive.tar and
// returns the hash. The cached file is a hard link, with the same mode, or a copy
// if linking fails. An existing file stays, even if its content has changed since.
func cacheArchive(s *state.Store, path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	f, err := os.Open(real)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	dir := filepath.Join(s.Archives(), sum)
	cached := filepath.Join(dir, "archive.tar")
	if _, err := os.Stat(cached); err == nil {
		return sum, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.Link(real, cached); err == nil || errors.Is(err, fs.ErrExist) {
		return sum, nil
	}
	return sum, copyTo(f, cached)
}

func copyTo(f *os.File, path string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "archive-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := io.Copy(tmp, f); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// openImage returns the root file system of a machine and its image's
// configuration.
func (a *app) openImage(r *machine.Record) (*archive.Image, error) {
	if r.Source != "" {
		return a.openPacked(r)
	}
	if sum, ok := strings.CutPrefix(r.Image, "local:"); ok {
		cached := filepath.Join(a.store.Archives(), sum, "archive.tar")
		img, err := archive.Unpack(cached, filepath.Join(a.store.Layers(), sum))
		if err != nil {
			return nil, agentError("start machine", "import image: %w", err)
		}
		return img, nil
	}
	if dir, ok := strings.CutPrefix(r.Image, "local-dir:"); ok {
		return &archive.Image{Rootfs: dir}, nil
	}
	if r.Image != "" {
		return nil, agentError("pull image", "agent error: pull %s: the stand-in cannot pull from a registry", r.Image)
	}
	root, err := archive.Bare(a.store.Layers())
	if err != nil {
		return nil, fmt.Errorf("smolvm stand-in: %w", err)
	}
	return &archive.Image{Rootfs: root}, nil
}
